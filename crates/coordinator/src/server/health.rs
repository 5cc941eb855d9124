//! For probes: gRPC's health service and `GET /healthz`. Neither needs a token, neither tells anything.

use proto::v1;
use tonic_health::pb::health_server::{Health, HealthServer};

/// Serving, for as long as the port is open.
pub async fn grpc() -> HealthServer<impl Health> {
    let (reporter, server) = tonic_health::server::health_reporter();
    for service in [
        v1::control_server::SERVICE_NAME,
        v1::rendezvous_server::SERVICE_NAME,
        v1::checkpoints_server::SERVICE_NAME,
        v1::metrics_server::SERVICE_NAME,
        v1::runs_server::SERVICE_NAME,
        v1::data_server::SERVICE_NAME,
        v1::workers_server::SERVICE_NAME,
    ] {
        reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    server
}

/// `GET /healthz` answers 200 and `ok`.
pub fn http() -> axum::Router {
    axum::Router::new().route("/healthz", axum::routing::get(async || "ok\n"))
}
