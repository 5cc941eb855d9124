//! One process, one port: gRPC for workers and people, `/healthz` for probes.

mod checkpoints;
mod clock;
mod corpora;
mod coverage;
mod data;
mod driver;
mod health;
mod ledger;
mod metrics;
mod on_thread;
mod parent;
mod proof;
mod refusals;
mod rendezvous;
mod rendezvous_service;
mod request;
mod runs;
mod session;
mod stuck;
mod submit;
mod sweeps;
mod wire;
mod workers;

use crate::auth::RequireToken;
use crate::data_dir::{DataDir, DataDirError};
use checkpoints::{CheckpointsService, Repository};
use clock::Clock;
use control::{CheckpointAt, Control, Event, RunStatus};
use corpora::Corpora;
use data::DataService;
use driver::{Command, Driver, Sessions};
use metrics::MetricsService;
use on_thread::OnThread;
use proto::v1;
use refusals::Refusals;
use rendezvous::Rendezvous;
use rendezvous_service::RendezvousService;
use runs::{RunsService, Shown};
use session::ControlService;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::{Change, CheckpointId, CheckpointRepository, Database, EventRow};
use stuck::Stuck;
use sweeps::SweepsService;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use workers::WorkersService;

/// A Progress of 2,048 slots fits with room.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Calls that are under way when the end comes may take so long; waits in a rendezvous are not worth more.
const DRAIN: Duration = Duration::from_secs(5);
const CONNECTION_WINDOW: u32 = 32 << 20;
/// A peer that vanished without a word is noticed after this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a coordinator runs with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Database, token, endpoint, and checkpoints unless `store` says otherwise.
    pub data_dir: PathBuf,
    /// A folder or an object-store URL for checkpoints.
    pub store: Option<String>,
    /// Whether clients must show the token.
    pub require_token: bool,
    /// Every stored checkpoint is read again once in this time; none: never.
    pub scrub: Option<Duration>,
    /// Waits and limits.
    pub settings: control::Settings,
}

/// A coordinator that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken.
    #[error(
        "cannot listen on {address}: the port is in use; stop the program that uses it (another coordinator?), or choose \
         another port with --listen HOST:PORT (port 0 takes any free one)"
    )]
    PortInUse {
        /// Which.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Not a loopback address, and nothing is encrypted.
    #[error(
        "refusing to listen on {address}: everything, the token included, would cross the network in plain text; \
         listen on 127.0.0.1, or give --insecure-plaintext if you trust the network"
    )]
    PlainText {
        /// Which.
        address: SocketAddr,
    },
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] store::DatabaseError),
    /// The checkpoint store cannot be used.
    #[error(transparent)]
    Store(#[from] store::CheckpointError),
    /// The network or a thread failed.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Listens on an address. Without TLS only loopback is allowed, unless `plain_text` says otherwise.
pub async fn bind(address: SocketAddr, plain_text: bool) -> Result<TcpListener, ServeError> {
    if !is_loopback(address.ip()) {
        if !plain_text {
            return Err(ServeError::PlainText { address });
        }
        tracing::warn!(%address, "INSECURE: everything, the token included, crosses the network in plain text");
    }
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => ServeError::PortInUse { address },
        _ => ServeError::Listen { address, source },
    })
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    }
}

fn io<E: Into<Box<dyn std::error::Error + Send + Sync>>>(action: &'static str) -> impl FnOnce(E) -> ServeError {
    move |source| ServeError::Io { action, source: source.into() }
}

/// Runs a coordinator until `shutdown`: calls are finished, everything is written, runs stay as they are and go on
/// after the next start. The data folder is this process's alone meanwhile.
pub async fn run(listener: TcpListener, config: ServerConfig, shutdown: CancellationToken) -> Result<(), ServeError> {
    let folder = DataDir::open(&config.data_dir)?;
    let token = if config.require_token {
        Some(folder.token()?)
    } else {
        tracing::warn!("INSECURE: no token is asked for; whoever reaches the port can do everything");
        None
    };
    let address = listener.local_addr().map_err(io("no local address"))?;
    let store_address = config.store.clone().unwrap_or_else(|| folder.default_store_path().display().to_string());
    let store = CheckpointRepository::open(&store_address)?;
    let database = Database::open(&folder.database_path())?;
    let reader = database.reader()?;
    let (database, writer_thread) = OnThread::start("database", database).map_err(io("cannot start a thread"))?;
    let (reader, _) = OnThread::start("reader", reader).map_err(io("cannot start a thread"))?;

    let (commands, queue) = mpsc::channel(driver::QUEUE);
    let repository = Arc::new(Repository::new(store, reader.clone(), commands.clone()));
    let (changed, changes) = watch::channel(0);
    let rendezvous = Arc::new(Rendezvous::default());
    let (refusals, stuck) = (Arc::new(Refusals::new(commands.clone())), Arc::new(Stuck::default()));
    let takeover = Takeover {
        repository: Arc::clone(&repository),
        rendezvous: Arc::clone(&rendezvous),
        refusals: Arc::clone(&refusals),
        stuck: Arc::clone(&stuck),
        database,
        reader: reader.clone(),
        queue,
        commands: commands.clone(),
        changed,
    };
    let driver = takeover.driver(&config).await?;
    if let Some(period) = config.scrub {
        let (repository, shutdown) = (Arc::clone(&repository), shutdown.clone());
        tokio::spawn(async move { repository.scrub(period, shutdown).await });
    }

    let services =
        Services { commands, reader, repository, rendezvous, refusals, stuck, changes, shutdown: shutdown.clone() };
    let routes = services.routes(RequireToken::new(token.as_deref())).await?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let stop = shutdown.clone();
    let serving = Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(proto::STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move { stop.cancelled().await });

    // If either ends by itself the other must end too.
    let driving = tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            let result = driver.run(shutdown.clone()).await;
            shutdown.cancel();
            result
        }
    });
    folder.write_endpoint(address)?;
    tracing::info!(%address, data_dir = %folder.path().display(), store = store_address, "coordinator listens");
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    let served = tokio::select! {
        served = serving => served.map_err(io("the server failed")),
        () = drained => {
            tracing::warn!("some calls did not end in time");
            Ok(())
        }
    };
    shutdown.cancel();
    folder.remove_endpoint();
    let driven = driving.await.map_err(io("the driver failed"))?;
    tokio::task::spawn_blocking(move || writer_thread.join()).await.map_err(io("cannot close the database"))?;
    driven?;
    served?;
    tracing::info!("coordinator ended; its runs go on after the next start");
    Ok(())
}

/// What the driver is made of, before it knows the runs.
struct Takeover {
    repository: Arc<Repository>,
    rendezvous: Arc<Rendezvous>,
    refusals: Arc<Refusals>,
    stuck: Arc<Stuck>,
    database: OnThread<Database>,
    reader: OnThread<store::Reader>,
    queue: mpsc::Receiver<Command>,
    commands: mpsc::Sender<Command>,
    changed: watch::Sender<u64>,
}

impl Takeover {
    /// Takes over what a former process left.
    async fn driver(self, config: &ServerConfig) -> Result<Driver, ServeError> {
        let Self { repository, rendezvous, refusals, stuck, database, reader, queue, commands, changed } = self;
        let mut records = Vec::new();
        let mut details = BTreeMap::new();
        let mut changes = Vec::new();
        // What the former process did not live to tell, and the checkpoints among it.
        let (mut missed, mut unseen) = (Vec::new(), Vec::new());
        for row in reader.call(|reader| reader.runs()).await? {
            let (record, detail) = driver::run_record(row).map_err(io("the run database holds what cannot be"))?;
            refusals.know(&record.id);
            if !record.status.has_ended() {
                let stock = repository.stock(&record.id).await.map_err(io("the checkpoint store cannot be read"))?;
                let at = |id: &CheckpointId| CheckpointAt { generation: id.generation, step: id.step };
                for row in stock.unrecorded {
                    missed.push(Event::CheckpointCommitted { run: record.id.clone(), at: at(&row.id) });
                    unseen.push(row.id.clone());
                    changes.push(Change::Checkpoint(row));
                }
                for id in stock.gone {
                    if record.restore == Some(at(&id)) {
                        missed.push(Event::CheckpointLost { run: record.id.clone(), at: at(&id) });
                    }
                    changes.push(Change::CheckpointDeleted(id));
                }
            }
            if record.status == RunStatus::Running {
                rendezvous.open(&record.id, record.generation);
                let text = "the coordinator was started again".to_owned();
                changes.push(Change::Event(EventRow { run: record.id.clone(), time_ms: Clock::wall_ms(), text }));
            }
            details.insert(record.id.clone(), detail);
            records.push(record);
        }
        let sweeps = reader.call(|reader| reader.sweeps()).await?;
        let sweeps = sweeps.into_iter().map(|row| (row.name, row.digest)).collect();
        let clock = Clock::start();
        let mut control = Control::new(config.settings.clone());
        let runs = records.len();
        control.restore(clock.now(), records);
        for event in missed {
            control.handle(clock.now(), event);
        }
        for id in unseen {
            repository.tend_later(id);
        }
        if runs > 0 {
            tracing::info!(runs, "runs taken over");
        }
        Ok(Driver {
            control,
            commands: queue,
            sender: commands,
            database,
            details,
            sessions: Sessions::default(),
            rendezvous,
            repository,
            refusals,
            stuck,
            changed,
            clock,
            taken_over: changes,
            early_metrics: BTreeMap::new(),
            sweeps,
        })
    }
}

/// What the services share.
struct Services {
    commands: mpsc::Sender<Command>,
    reader: OnThread<store::Reader>,
    repository: Arc<Repository>,
    rendezvous: Arc<Rendezvous>,
    refusals: Arc<Refusals>,
    stuck: Arc<Stuck>,
    changes: watch::Receiver<u64>,
    shutdown: CancellationToken,
}

impl Services {
    async fn routes(self, token: RequireToken) -> Result<Routes, ServeError> {
        use v1::checkpoints_server::CheckpointsServer;
        use v1::control_server::ControlServer;
        use v1::data_server::DataServer;
        use v1::metrics_server::MetricsServer;
        use v1::rendezvous_server::RendezvousServer;
        use v1::runs_server::RunsServer;
        use v1::sweeps_server::SweepsServer;
        use v1::workers_server::WorkersServer;
        let Self { commands, reader, repository, rendezvous, refusals, stuck, changes, shutdown } = self;
        let corpora = Arc::new(Corpora::new(reader.clone()));
        let control = ControlServer::new(ControlService::new(commands.clone(), shutdown.clone()));
        let rendezvous = RendezvousServer::new(RendezvousService::new(rendezvous, Arc::clone(&refusals)));
        let checkpoints = CheckpointsService::new(Arc::clone(&repository), reader.clone(), Arc::clone(&refusals));
        let checkpoints = CheckpointsServer::new(checkpoints);
        let workers = WorkersServer::new(WorkersService::new(commands.clone()));
        let metrics = MetricsServer::new(MetricsService::new(reader.clone()));
        let data = DataServer::new(DataService::new(Arc::clone(&corpora)));
        let shown = Shown { commands, reader, corpora, refusals, stuck };
        let sweeps = SweepsService { shown: shown.clone(), repository: Arc::clone(&repository) };
        let sweeps = SweepsServer::new(sweeps);
        let runs = RunsServer::new(RunsService { shown, repository, changed: changes, shutdown });
        let health = health::grpc().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(io("reflection"))?;
        let mut routes = Routes::builder();
        routes
            .add_service(InterceptedService::new(control.max_decoding_message_size(MESSAGE_BYTES_MAX), token.clone()))
            .add_service(InterceptedService::new(rendezvous, token.clone()))
            .add_service(InterceptedService::new(
                checkpoints.max_decoding_message_size(MESSAGE_BYTES_MAX),
                token.clone(),
            ))
            .add_service(InterceptedService::new(metrics, token.clone()))
            .add_service(InterceptedService::new(runs, token.clone()))
            .add_service(InterceptedService::new(workers, token.clone()))
            .add_service(InterceptedService::new(sweeps, token.clone()))
            .add_service(InterceptedService::new(data, token.clone()))
            .add_service(health)
            .add_service(reflection);
        let http = routes.routes().into_axum_router().merge(health::http());
        Ok(Routes::from(http))
    }
}
