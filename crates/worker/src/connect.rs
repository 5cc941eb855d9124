//! How a worker reaches its coordinator: the address, the cluster's token and the channel that carries both.

use proto::v1::checkpoints_client::CheckpointsClient;
use proto::v1::control_client::ControlClient;
use proto::v1::data_client::DataClient;
use proto::v1::rendezvous_client::RendezvousClient;
use proto::v1::runs_client::RunsClient;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Where the address comes from when no flag names it.
pub const COORDINATOR_VARIABLE: &str = "TRIREME_COORDINATOR";
/// Where the token comes from when no flag names a file.
pub const TOKEN_VARIABLE: &str = "TRIREME_TOKEN";
/// A checkpoint's chunk and an `Assign` with its config fit in this; tonic's own limit is 4 MiB.
const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// An address or token that cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ConnectError {
    /// Not `HOST:PORT`.
    #[error("`{address}` is no address of a coordinator: {reason}")]
    #[diagnostic(help("{}", proto::ADDRESS_HELP))]
    Address {
        /// As given.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The token file cannot be read.
    #[error("the token file {} cannot be read: {error}", path.display())]
    #[diagnostic(help("copy <data-dir>/token from the coordinator's host, readable by you alone"))]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The token has characters that no header can carry.
    #[error("the token from {source_name} is not one line of plain characters")]
    #[diagnostic(help("copy <data-dir>/token from the coordinator's host unchanged"))]
    Token {
        /// The file or variable.
        source_name: String,
    },
}

impl ConnectError {
    /// The process's exit code: 4 for the token, 2 for what is no address.
    pub fn exit_code(&self) -> u8 {
        match self {
            ConnectError::TokenFile { .. } | ConnectError::Token { .. } => 4,
            ConnectError::Address { .. } => 2,
        }
    }
}

/// The cluster's secret, as the header that shows it.
#[derive(Clone)]
pub struct Token {
    text: String,
    header: MetadataValue<Ascii>,
}

impl Token {
    /// Checks that the text can travel in a header; surrounding white space is not part of it.
    pub fn new(text: &str, source_name: &str) -> Result<Self, ConnectError> {
        let text = text.trim().to_owned();
        let header = format!("Bearer {text}").parse::<MetadataValue<Ascii>>();
        match header {
            Ok(mut header) if !text.is_empty() => {
                header.set_sensitive(true);
                Ok(Self { text, header })
            }
            _ => Err(ConnectError::Token { source_name: source_name.to_owned() }),
        }
    }

    /// The file that was named, else the environment, else the default data folder's file; None where there is none.
    pub fn find(file: Option<&Path>) -> Result<Option<Self>, ConnectError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| ConnectError::TokenFile { path: path.to_owned(), error })
                .and_then(|text| Self::new(&text, &path.display().to_string()))
        };
        if let Some(path) = file {
            return read(path).map(Some);
        }
        if let Ok(text) = std::env::var(TOKEN_VARIABLE) {
            return Self::new(&text, TOKEN_VARIABLE).map(Some);
        }
        match default_data_folder().map(|folder| folder.join("token")) {
            Some(path) if path.exists() => read(&path).map(Some),
            _ => Ok(None),
        }
    }

    /// The secret itself, for the trainer process's environment.
    pub fn secret(&self) -> &str {
        &self.text
    }
}

/// `$XDG_DATA_HOME/trireme` or `~/.local/share/trireme`: the coordinator's default data folder on the same host.
pub(crate) fn default_data_folder() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME").filter(|text| !text.is_empty()).map(PathBuf::from).or_else(home);
    base.map(|base| base.join("trireme"))
}

/// Puts the token on every request.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// A channel with the token on it.
pub type Authorised = InterceptedService<Channel, Bearer>;

/// The coordinator. Cloning shares the connection; it is made when first needed and again whenever it was lost.
#[derive(Clone)]
pub struct Coordinator {
    address: String,
    channel: Channel,
    bearer: Bearer,
}

impl Coordinator {
    /// Opens nothing yet. Must be called within a tokio runtime.
    pub fn new(address: &str, token: Option<&Token>) -> Result<Self, ConnectError> {
        let fail = |reason: &str| ConnectError::Address { address: address.to_owned(), reason: reason.to_owned() };
        let bare = proto::authority(address).map_err(fail)?;
        let endpoint = Endpoint::from_shared(format!("http://{bare}"))
            .map_err(|error| fail(&error.to_string()))?
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let bearer = Bearer(token.map(|token| token.header.clone()));
        Ok(Self { address: bare.to_owned(), channel: endpoint.connect_lazy(), bearer })
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn authorised(&self) -> Authorised {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }

    /// The control session's service.
    pub fn control(&self) -> ControlClient<Authorised> {
        ControlClient::new(self.authorised()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The rendezvous service.
    pub fn rendezvous(&self) -> RendezvousClient<Authorised> {
        RendezvousClient::new(self.authorised()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The checkpoints service.
    pub fn checkpoints(&self) -> CheckpointsClient<Authorised> {
        CheckpointsClient::new(self.authorised()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The data service.
    pub fn data(&self) -> DataClient<Authorised> {
        DataClient::new(self.authorised()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The runs service.
    pub fn runs(&self) -> RunsClient<Authorised> {
        RunsClient::new(self.authorised()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The address of this host from which the coordinator is reached: the one to give to the other workers.
    pub async fn local_address(&self) -> std::io::Result<String> {
        // Connecting a datagram socket sends nothing; it only chooses the route.
        let remote = tokio::net::lookup_host(&self.address).await?.next();
        let remote = remote.ok_or_else(|| std::io::Error::other(format!("{} names no host", self.address)))?;
        let any = if remote.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = tokio::net::UdpSocket::bind(any).await?;
        socket.connect(remote).await?;
        Ok(socket.local_addr()?.ip().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_host_and_port() {
        for bad in ["", "localhost", ":7117", "localhost:", "localhost:port", "localhost:0", "a b:1", "h:70000"] {
            let code = Coordinator::new(bad, None).err().map(|error| error.exit_code());
            assert_eq!(code, Some(2), "{bad}");
        }
        for good in ["127.0.0.1:7117", "localhost:1", "[::1]:7117", "http://host:9"] {
            assert!(Coordinator::new(good, None).is_ok(), "{good}");
        }
    }

    #[tokio::test]
    async fn on_loopback_the_others_are_given_loopback() {
        let coordinator = Coordinator::new("127.0.0.1:7117", None).unwrap();
        assert_eq!(coordinator.local_address().await.unwrap(), "127.0.0.1");
    }

    #[test]
    fn a_token_is_one_line() {
        assert_eq!(Token::new(" abc\n", "x").unwrap().secret(), "abc");
        assert!(Token::new("", "x").is_err() && Token::new("a\nb", "x").is_err());
    }

    #[test]
    fn a_token_that_cannot_be_used_has_an_exit_code_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let code = || Token::find(Some(&path)).map(|_| ()).unwrap_err().exit_code();
        assert_eq!(code(), 4, "there is none");
        std::fs::write(&path, "two\nlines\n").unwrap();
        assert_eq!(code(), 4);
    }
}
