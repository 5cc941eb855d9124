//! Finding the coordinator, and being let in.

use super::args::Connection;
use super::problem::Problem;
use crate::auth::ShowToken;
use crate::data_dir;
use proto::v1;
use std::path::Path;
use std::time::Duration;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

/// An authenticated channel.
pub type Authenticated = InterceptedService<Channel, ShowToken>;

/// A Progress or a Run can be larger than gRPC's usual 4 MiB.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A connection to a coordinator that answered.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Authenticated,
}

impl Client {
    /// Connects; an error names the address and how to start a coordinator.
    pub async fn connect(connection: &Connection) -> Result<Self, Problem> {
        let address = address(connection)?;
        let token = token(connection)?;
        let show = ShowToken::new(token.as_deref())
            .ok_or_else(|| Problem::access("the token holds characters that no token has"))?;
        let bare = proto::authority(&address).map_err(|reason| {
            Problem::usage(format!("`{address}` is no address: {reason}")).help(proto::ADDRESS_HELP)
        })?;
        let endpoint = Endpoint::from_shared(format!("http://{bare}"))
            .map_err(|_| Problem::usage(format!("`{address}` is no address")).help(proto::ADDRESS_HELP))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20);
        let channel = endpoint.connect().await.map_err(|error| {
            let mut cause = std::error::Error::source(&error);
            let mut reason = error.to_string();
            while let Some(inner) = cause {
                reason = inner.to_string();
                cause = inner.source();
            }
            Problem::retry(format!("no coordinator answers at {bare}: {reason}")).help(
                "start one with `coordinator start`, or name another with --coordinator HOST:PORT or \
                 TRIREME_COORDINATOR",
            )
        })?;
        Ok(Self { channel: InterceptedService::new(channel, show) })
    }

    /// The Runs service.
    pub fn runs(&self) -> v1::runs_client::RunsClient<Authenticated> {
        v1::runs_client::RunsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The Sweeps service.
    pub fn sweeps(&self) -> v1::sweeps_client::SweepsClient<Authenticated> {
        v1::sweeps_client::SweepsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The Workers service.
    pub fn workers(&self) -> v1::workers_client::WorkersClient<Authenticated> {
        v1::workers_client::WorkersClient::new(self.channel.clone())
    }

    /// The Metrics service.
    pub fn metrics(&self) -> v1::metrics_client::MetricsClient<Authenticated> {
        v1::metrics_client::MetricsClient::new(self.channel.clone())
    }

    /// The Checkpoints service.
    pub fn checkpoints(&self) -> v1::checkpoints_client::CheckpointsClient<Authenticated> {
        v1::checkpoints_client::CheckpointsClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

fn address(connection: &Connection) -> Result<String, Problem> {
    if let Some(address) = connection.coordinator.as_deref().filter(|address| !address.is_empty()) {
        return Ok(address.to_owned());
    }
    let folder = data_dir::default_path().map_err(|error| Problem::failure(error.to_string()))?;
    let path = data_dir::endpoint_path(&folder);
    std::fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(|_| {
        Problem::retry(format!("no coordinator runs on this machine's default data folder ({})", folder.display()))
            .help(
                "start one with `coordinator start`, or name another with --coordinator HOST:PORT or \
                 TRIREME_COORDINATOR",
            )
    })
}

fn token(connection: &Connection) -> Result<Option<String>, Problem> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|error| (path.to_owned(), error))
    };
    if let Some(path) = &connection.token_file {
        return read(path).map(Some).map_err(|(path, error)| {
            Problem::access(format!("cannot read the token file {}: {error}", path.display()))
                .help("it is the file `token` in the coordinator's data folder")
        });
    }
    if let Some(token) = std::env::var("TRIREME_TOKEN").ok().filter(|token| !token.is_empty()) {
        return Ok(Some(token.trim().to_owned()));
    }
    // None: the coordinator says what is missing, unless it lets in everybody.
    Ok(data_dir::default_path().ok().and_then(|folder| read(&data_dir::token_path(&folder)).ok()))
}
