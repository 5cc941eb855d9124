//! What a simulated worker says, encoded once for all who say it, and the stream it says it on.

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes};
use prost::Message;
use proto::v1;
use proto::v1::worker_message::Kind;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use types::{Digest, Segment, SlotId, Step};

/// Samples of a unit, and of a slot in one step, as far as the simulation goes.
const UNIT_SAMPLES: u64 = 100;

/// Messages that are encoded already go out, the coordinator's come in.
#[derive(Clone, Copy, Debug, Default)]
struct Frames;

impl Codec for Frames {
    type Encode = Bytes;
    type Decode = v1::CoordinatorMessage;
    type Encoder = Self;
    type Decoder = tonic_prost::ProstDecoder<v1::CoordinatorMessage>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self::Decoder::default()
    }
}

impl Encoder for Frames {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

/// How the coordinator is reached, as a worker reaches it.
#[derive(Clone)]
pub struct Coordinator {
    endpoint: Endpoint,
    token: MetadataValue<Ascii>,
}

impl Coordinator {
    pub fn new(address: &str, token: &str) -> Result<Self> {
        // As `worker join` sets its connection up.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let token = format!("Bearer {token}").parse::<MetadataValue<Ascii>>().context("the token fits no header")?;
        Ok(Self { endpoint, token })
    }

    pub async fn connect(&self) -> Result<Channel> {
        self.endpoint.connect().await.context("no connection to the coordinator")
    }

    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }

    /// A control session: what is put into the queue's other end is sent in order.
    pub async fn session(
        &self,
        channel: Channel,
        outgoing: mpsc::Receiver<Bytes>,
    ) -> Result<Streaming<v1::CoordinatorMessage>> {
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await?;
        let path = PathAndQuery::from_static("/trireme.v1.Control/Session");
        let response = client.streaming(self.request(ReceiverStream::new(outgoing)), path, Frames).await?;
        Ok(response.into_inner())
    }
}

pub fn encoded(kind: Kind) -> Bytes {
    v1::WorkerMessage { kind: Some(kind) }.encode_to_vec().into()
}

pub fn register(worker: usize) -> Bytes {
    encoded(Kind::Register(v1::Register {
        worker: format!("simulated-{worker:05}"),
        host: format!("host-{worker:05}"),
        pid: 1000,
        device: "cpu".to_owned(),
        threads: 1,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        holding: None,
        address: "127.0.0.1".to_owned(),
        starting: false,
    }))
}

pub fn heartbeat(run: &str, generation: u64, step: u64, since_progress_ms: u64) -> Bytes {
    encoded(Kind::Heartbeat(v1::Heartbeat {
        run: run.to_owned(),
        generation,
        step,
        phase: v1::Phase::Compute.into(),
        collective: 3 * step,
        since_progress_ms,
        trainer_silent_ms: 0,
    }))
}

pub fn step_failed(run: &str, generation: u64, step: u64, error: &str) -> Bytes {
    encoded(Kind::StepFailed(v1::StepFailed { run: run.to_owned(), generation, step, error: error.to_owned() }))
}

pub fn paused(run: &str, generation: u64, step: u64) -> Bytes {
    encoded(Kind::Paused(v1::Paused { run: run.to_owned(), generation, step }))
}

/// What members say of a step, as `worker` does.
#[derive(Clone, Debug)]
pub struct Report {
    pub step: u64,
    /// The segments of all slots, the chain of samples and the metrics: what rank 0 says.
    pub whole: Bytes,
    /// What the others say at first.
    pub first: Bytes,
    /// And what they add unless they hear that the step is durable.
    pub rest: Bytes,
}

/// The report of a step of a run with so many slots, the same from every member. Moves the chain on.
pub fn progress(run: &str, generation: u64, step: u64, slots: u32, chain: &mut Digest) -> Report {
    let (turn, start) = ((step - 1) / UNIT_SAMPLES, (step - 1) % UNIT_SAMPLES);
    let segment = |slot| Segment { slot: SlotId(slot), turn, start, end: start + 1, total: UNIT_SAMPLES };
    let segments: Vec<Segment> = (0..slots).map(segment).collect();
    *chain = chain.chain_samples(Step(step), &segments);
    let names = ["loss", "mlm_accuracy", "mlm_loss", "nsp_accuracy", "nsp_loss", "learning_rate", "gradient_norm"];
    let metric = |name: &str| v1::Metric { attempt: 0, step, key: format!("train/{name}"), value: 1.0, time_ms: 0 };
    let whole = v1::Progress {
        run: run.to_owned(),
        generation,
        step,
        segments: segments.into_iter().map(Into::into).collect(),
        samples_digest: chain.0.to_vec(),
        metrics: names.into_iter().chain(["tokens_per_second"]).map(metric).collect(),
        tokens: 128,
        seconds: 1.0,
    };
    let first = v1::Progress { segments: Vec::new(), metrics: Vec::new(), ..whole.clone() };
    let rest = v1::Progress { tokens: 0, seconds: 0.0, ..whole.clone() };
    let [whole, first, rest] = [whole, first, rest].map(|progress| encoded(Kind::Progress(progress)));
    Report { step, whole, first, rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progress_has_all_slots_once_and_moves_the_chain() {
        let mut chain = Digest::default();
        let Report { whole, first, .. } = progress("run", 2, 101, 3, &mut chain);
        assert!(first.len() < whole.len() / 2);
        let Some(Kind::Progress(said)) = v1::WorkerMessage::decode(whole).unwrap().kind else { panic!("no progress") };
        let of_slots: Vec<(u32, u64, u64)> =
            said.segments.iter().map(|segment| (segment.slot, segment.turn, segment.start)).collect();
        assert_eq!(of_slots, [(0, 1, 0), (1, 1, 0), (2, 1, 0)], "the second unit begins");
        assert_eq!((said.step, said.generation, said.samples_digest.len()), (101, 2, 32));
        assert_eq!(said.samples_digest, chain.0);
        assert_ne!(chain, Digest::default());
    }
}
