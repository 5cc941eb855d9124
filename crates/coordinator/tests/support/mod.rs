//! A coordinator in this process, a small corpus, and a worker that speaks the real protocol but computes nothing.

#![allow(dead_code, clippy::unwrap_used)]

use coordinator::server::{self, ServerConfig};
use corpus::{Corpus, Loader, Tokenizer};
use proto::v1;
use proto::v1::coordinator_message::Kind as Directive;
use proto::v1::worker_message::Kind as Report;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use types::{Cursor, Digest, Segment, SlotId, Step};

/// Nothing here takes long; a test that waits longer than this hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Show(Option<MetadataValue<Ascii>>);

impl tonic::service::Interceptor for Show {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

pub type Authenticated = InterceptedService<Channel, Show>;

/// A coordinator, until it is stopped or killed.
pub struct Server {
    pub folder: PathBuf,
    pub address: String,
    pub token: String,
    running: Running,
}

enum Running {
    Here { shutdown: CancellationToken, task: JoinHandle<Result<(), server::ServeError>> },
    Process(tokio::process::Child),
}

impl Server {
    /// In this process.
    pub async fn start(folder: &Path) -> Self {
        Self::start_with(folder, None).await
    }

    pub async fn start_with(folder: &Path, scrub: Option<Duration>) -> Self {
        let listener = server::bind("127.0.0.1:0".parse().unwrap(), false).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = ServerConfig {
            data_dir: folder.to_owned(),
            store: None,
            require_token: true,
            scrub,
            settings: control::Settings::default(),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server::run(listener, config, shutdown.clone()));
        let endpoint = coordinator::data_dir::endpoint_path(folder);
        wait_for("the endpoint", || std::fs::read_to_string(&endpoint).is_ok_and(|text| text.trim() == address)).await;
        let token = token(folder);
        Self { folder: folder.to_owned(), address, token, running: Running::Here { shutdown, task } }
    }

    /// In a process of its own, that can be killed.
    pub async fn spawn(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let endpoint = coordinator::data_dir::endpoint_path(folder);
        let log = std::fs::File::options().create(true).append(true).open(folder.with_extension("log")).unwrap();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command.args(["start", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder).args(arguments);
        let process = command.envs(environment.iter().copied()).stderr(log).kill_on_drop(true).spawn().unwrap();
        // One that was killed leaves its endpoint behind; the new one removes it before it writes its own.
        let pid = process.id().unwrap().to_string();
        let is_its = || std::fs::read_to_string(folder.join("lock")).is_ok_and(|text| text.trim() == pid);
        wait_for("the endpoint", || is_its() && endpoint.exists()).await;
        let address = std::fs::read_to_string(&endpoint).unwrap().trim().to_owned();
        Self { folder: folder.to_owned(), address, token: token(folder), running: Running::Process(process) }
    }

    pub async fn stop(self) {
        match self.running {
            Running::Here { shutdown, task } => {
                shutdown.cancel();
                tokio::time::timeout(PATIENCE, task).await.expect("it ends").unwrap().unwrap();
                assert!(!coordinator::data_dir::endpoint_path(&self.folder).exists());
            }
            Running::Process(mut process) => process.kill().await.unwrap(),
        }
    }

    pub async fn channel(&self, token: Option<&str>) -> Authenticated {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        let value = token.map(|token| format!("Bearer {token}").parse().unwrap());
        InterceptedService::new(endpoint.connect().await.unwrap(), Show(value))
    }

    pub async fn runs(&self) -> v1::runs_client::RunsClient<Authenticated> {
        v1::runs_client::RunsClient::new(self.channel(Some(&self.token)).await)
    }

    pub async fn checkpoints(&self) -> v1::checkpoints_client::CheckpointsClient<Authenticated> {
        v1::checkpoints_client::CheckpointsClient::new(self.channel(Some(&self.token)).await)
    }

    pub async fn rendezvous(&self) -> v1::rendezvous_client::RendezvousClient<Authenticated> {
        v1::rendezvous_client::RendezvousClient::new(self.channel(Some(&self.token)).await)
    }

    pub async fn submit(&self, config: &str) -> String {
        let request = v1::SubmitRequest { config: config.to_owned() };
        self.runs().await.submit(request).await.unwrap().into_inner().run
    }

    pub async fn show(&self, run: &str) -> v1::Run {
        self.runs().await.show(v1::RunRequest { run: run.to_owned() }).await.unwrap().into_inner()
    }

    pub async fn metrics(&self, run: &str, superseded: bool) -> Vec<v1::Metric> {
        let mut client = v1::metrics_client::MetricsClient::new(self.channel(Some(&self.token)).await);
        let request = v1::QueryMetricsRequest { run: run.to_owned(), keys: Vec::new(), from_step: 0, superseded };
        let mut stream = client.query(request).await.unwrap().into_inner();
        let mut metrics = Vec::new();
        while let Some(metric) = stream.message().await.unwrap() {
            metrics.push(metric);
        }
        metrics
    }

    /// Until the run is as wanted.
    pub async fn wait_until(&self, run: &str, what: &str, wanted: impl Fn(&v1::Run) -> bool) -> v1::Run {
        let waiting = async {
            loop {
                let shown = self.show(run).await;
                if wanted(&shown) {
                    return shown;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(run) => run,
            Err(_) => panic!("waited for {what}; the run is {:#?}", self.show(run).await),
        }
    }

    /// The real program against this server. Answers exit code, stdout, stderr.
    pub async fn command(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command.args(arguments).env("TRIREME_COORDINATOR", &self.address).env("TRIREME_TOKEN", &self.token);
        output(command).await
    }
}

fn token(folder: &Path) -> String {
    std::fs::read_to_string(coordinator::data_dir::token_path(folder)).unwrap().trim().to_owned()
}

pub async fn output(mut command: tokio::process::Command) -> (i32, String, String) {
    command.env("NO_COLOR", "1").kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

pub async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

/// A vocabulary and a corpus of a few hundred short documents.
pub fn write_corpus(folder: &Path) {
    let words = ["ship", "oar", "sea", "wind", "sail", "mast", "rope", "deck", "keel", "helm"];
    let mut vocabulary: Vec<&str> = vec!["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    vocabulary.extend(words);
    std::fs::write(folder.join("vocab.txt"), vocabulary.join("\n") + "\n").unwrap();
    let mut lines = String::new();
    for row in 0..240_usize {
        let text: Vec<&str> = (0..12).map(|word| words[(row * 7 + word * word) % words.len()]).collect();
        lines += &format!("{{\"text\": \"{}\"}}\n", text.join(" "));
    }
    std::fs::write(folder.join("corpus.jsonl"), lines).unwrap();
}

/// A run of `steps` steps on that corpus, two slots, a checkpoint every third step.
pub fn config(folder: &Path, steps: u64) -> String {
    format!(
        r#"
        [run]
        name = "small"
        kind = "pretrain"
        steps = {steps}
        [data]
        paths = ["{folder}/corpus.jsonl"]
        unit_rows = 16
        [tokenizer]
        path = "{folder}/vocab.txt"
        [model]
        architecture = "modern"
        layers = 1
        hidden = 16
        heads = 2
        [objective]
        kind = "mlm"
        [batch]
        slots = 2
        micro_batch = 2
        sequence_length = 16
        [checkpoint]
        every_steps = 3
        keep_latest = 2
        "#,
        folder = folder.display()
    )
}

/// That corpus, a coordinator, and such a run in its queue.
pub async fn small_run(steps: u64) -> (tempfile::TempDir, Server, String) {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let server = Server::start(&folder.path().join("data")).await;
    let run = server.submit(&config(folder.path(), steps)).await;
    (folder, server, run)
}

/// A worker whose training is nothing but the data order: what it reports is what a real one would.
pub struct FakeWorker {
    pub name: String,
    reports: mpsc::Sender<v1::WorkerMessage>,
    directives: Streaming<v1::CoordinatorMessage>,
}

/// Where the pretended training stands.
pub struct FakeTraining {
    pub assign: v1::Assign,
    pub step: u64,
    pub digest: Digest,
    /// What the model's file has beside its text.
    pub padding: usize,
    loader: Loader,
}

impl FakeWorker {
    pub async fn connect(server: &Server, name: &str, holding: Option<v1::Holding>) -> Self {
        Self::connect_as(server, name, 1, holding).await
    }

    pub async fn connect_as(server: &Server, name: &str, pid: u32, holding: Option<v1::Holding>) -> Self {
        Self::register(server, v1::Register { pid, holding, ..Self::facts(name) }).await
    }

    /// Whose trainer is not up yet; and is welcomed.
    pub async fn join_starting(server: &Server, name: &str) -> Self {
        let mut worker = Self::register(server, v1::Register { starting: true, ..Self::facts(name) }).await;
        worker.welcomed().await;
        worker
    }

    fn facts(name: &str) -> v1::Register {
        v1::Register {
            worker: name.to_owned(),
            host: "here".to_owned(),
            pid: 1,
            device: "cpu".to_owned(),
            threads: 1,
            version: "0".to_owned(),
            holding: None,
            address: "127.0.0.1".to_owned(),
            starting: false,
        }
    }

    async fn register(server: &Server, register: v1::Register) -> Self {
        let name = register.worker.clone();
        let (reports, queue) = mpsc::channel(256);
        reports.send(v1::WorkerMessage { kind: Some(Report::Register(register)) }).await.unwrap();
        let mut client = v1::control_client::ControlClient::new(server.channel(Some(&server.token)).await);
        let stream = tokio_stream::wrappers::ReceiverStream::new(queue);
        let directives = client.session(stream).await.unwrap().into_inner();
        Self { name, reports, directives }
    }

    /// And is welcomed.
    pub async fn join(server: &Server, name: &str, holding: Option<v1::Holding>) -> Self {
        let mut worker = Self::connect(server, name, holding).await;
        worker.welcomed().await;
        worker
    }

    async fn welcomed(&mut self) {
        match self.next().await {
            Some(Directive::Welcome(welcome)) => assert!(welcome.heartbeat_ms > 0),
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// And has done the first `steps` steps of the run that it is assigned.
    pub async fn trains(server: &Server, name: &str, steps: u64) -> (Self, FakeTraining) {
        let mut worker = Self::join(server, name, None).await;
        let mut training = FakeTraining::new(worker.assigned().await);
        for _ in 0..steps {
            worker.step(&mut training).await;
        }
        (worker, training)
    }

    pub async fn report(&self, report: Report) {
        self.reports.send(v1::WorkerMessage { kind: Some(report) }).await.unwrap();
    }

    /// False if the session has ended.
    pub async fn try_report(&self, report: Report) -> bool {
        self.reports.send(v1::WorkerMessage { kind: Some(report) }).await.is_ok()
    }

    /// The next order; None when the session has ended.
    pub async fn next(&mut self) -> Option<Directive> {
        loop {
            match self.news().await {
                Some(Directive::Committed(_)) => {}
                other => return other,
            }
        }
    }

    /// The next thing that it is told, an order or not; None when the session has ended.
    pub async fn news(&mut self) -> Option<Directive> {
        let message = tokio::time::timeout(PATIENCE, self.directives.message()).await.expect("a directive");
        message.ok().flatten().and_then(|message| message.kind)
    }

    pub async fn assigned(&mut self) -> v1::Assign {
        match self.next().await {
            Some(Directive::Assign(assign)) => assign,
            other => panic!("{} was not assigned but told {other:?}", self.name),
        }
    }

    /// The next assignment, after whatever else it is told of the generation before.
    pub async fn assigned_at_last(&mut self) -> v1::Assign {
        loop {
            match self.next().await {
                Some(Directive::Assign(assign)) => return assign,
                Some(_) => {}
                None => panic!("the session of {} ended", self.name),
            }
        }
    }

    /// Reports the next step of `training`.
    pub async fn step(&self, training: &mut FakeTraining) {
        let segments = training.compute();
        self.progress(training, segments).await;
    }

    pub async fn progress(&self, training: &FakeTraining, segments: Vec<Segment>) {
        self.report(Report::Progress(progress(training, segments))).await;
    }

    /// Uploads this rank's part of a checkpoint of the present step.
    pub async fn checkpoint(&self, server: &Server, training: &FakeTraining) -> bool {
        self.save(server, training, &training.files()).await
    }

    /// The same with other contents.
    pub async fn save(&self, server: &Server, training: &FakeTraining, contents: &[(&str, Vec<u8>)]) -> bool {
        let reference = training.reference();
        let mut files = Vec::new();
        for (name, content) in contents {
            upload(server, &reference, name, content).await.unwrap();
            files.push(v1::CheckpointFile {
                name: (*name).to_owned(),
                bytes: content.len() as u64,
                blake3: Digest::blake3(content).0.to_vec(),
            });
        }
        let request = v1::CompleteShardRequest {
            checkpoint: Some(reference),
            worker: self.name.clone(),
            rank: training.assign.rank,
            world: training.assign.world,
            files,
            eval_loss: Some(2.5),
            score: None,
            weights_digest: vec![7; 32],
        };
        server.checkpoints().await.complete_shard(request).await.unwrap().into_inner().committed
    }

    pub async fn finished(&self, training: &FakeTraining) {
        self.report(Report::Finished(v1::Finished {
            run: training.assign.run.clone(),
            generation: training.assign.generation,
            step: training.step,
            weights_digest: vec![7; 32],
        }))
        .await;
    }
}

/// What a member reports of the step that it has done last.
pub fn progress(training: &FakeTraining, segments: Vec<Segment>) -> v1::Progress {
    let metric = v1::Metric {
        attempt: 0,
        step: training.step,
        key: "loss".to_owned(),
        value: 10.0 / training.step as f64,
        time_ms: 1,
    };
    v1::Progress {
        run: training.assign.run.clone(),
        generation: training.assign.generation,
        step: training.step,
        segments: segments.into_iter().map(v1::Segment::from).collect(),
        samples_digest: training.digest.0.to_vec(),
        metrics: vec![metric],
        tokens: 64,
        seconds: 0.1,
    }
}

pub async fn upload(server: &Server, reference: &v1::CheckpointRef, file: &str, content: &[u8]) -> Result<(), Status> {
    use v1::upload_part::Kind;
    let header = v1::UploadHeader {
        checkpoint: Some(reference.clone()),
        worker: "w".to_owned(),
        file: file.to_owned(),
        bytes: content.len() as u64,
        blake3: Digest::blake3(content).0.to_vec(),
    };
    let mut parts = vec![v1::UploadPart { kind: Some(Kind::Header(header)) }];
    let mut offset = 0;
    for data in content.chunks((content.len() / 64).max(5)) {
        let chunk = v1::Chunk { offset, data: data.to_vec() };
        offset += data.len() as u64;
        parts.push(v1::UploadPart { kind: Some(Kind::Chunk(chunk)) });
    }
    server.checkpoints().await.upload(tokio_stream::iter(parts)).await.map(|_| ())
}

impl FakeTraining {
    /// From the beginning. The corpus blocks.
    pub fn new(assign: v1::Assign) -> Self {
        tokio::task::block_in_place(|| Self::open(assign))
    }

    fn open(assign: v1::Assign) -> Self {
        let config = config::parse("assigned", &assign.config).unwrap().check("assigned").unwrap();
        let corpus = Arc::new(Corpus::open(&config).unwrap());
        let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer).unwrap());
        let mut loader = Loader::new(corpus, tokenizer, &config);
        let slots: Vec<_> = (0..config.batch.slots).map(|slot| (SlotId(slot), Cursor::default())).collect();
        loader.assign(&slots);
        Self { assign, step: 0, digest: Digest::default(), padding: 0, loader }
    }

    /// The checkpoint of the present step.
    pub fn reference(&self) -> v1::CheckpointRef {
        v1::CheckpointRef { run: self.assign.run.clone(), generation: self.assign.generation, step: self.step }
    }

    /// What is in it.
    pub fn files(&self) -> [(&'static str, Vec<u8>); 6] {
        let mut model = format!("weights after step {}", self.step).into_bytes();
        model.resize(model.len() + self.padding, 7);
        let tokenizer = br#"{"normalizer": {"type": "BertNormalizer", "lowercase": true}}"#.to_vec();
        let hf = br#"{"model_type": "modernbert", "max_position_embeddings": 512}"#.to_vec();
        [
            ("model.safetensors", model),
            ("config.json", hf),
            ("tokenizer.json", tokenizer),
            ("tokenizer_config.json", b"{\"unk_token\": \"<unk>\"}".to_vec()),
            ("special_tokens_map.json", b"{}".to_vec()),
            ("state.json", vec![]),
        ]
    }

    /// From a checkpoint: the data order is computed again up to there.
    pub fn restored(assign: v1::Assign, step: u64) -> Self {
        let mut training = Self::new(assign);
        while training.step < step {
            training.compute();
        }
        training
    }

    /// What all slots use in the next step.
    pub fn compute(&mut self) -> Vec<Segment> {
        let step = Step(self.step + 1);
        let next = |slot| self.loader.next(SlotId(slot), step).unwrap().segments;
        let segments: Vec<Segment> = tokio::task::block_in_place(|| (0..2).flat_map(next).collect());
        self.step += 1;
        self.digest = self.digest.chain_samples(Step(self.step), &segments);
        segments
    }
}
