//! The wire side of [`super::rendezvous`].

use super::refusals::{Kind, Refusals};
use super::rendezvous::{Rendezvous, Table};
use super::request;
use proto::v1;
use proto::{Failure, FailureKind};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use types::Generation;

/// Serves `trireme.v1.Rendezvous`.
#[derive(Debug)]
pub struct RendezvousService {
    rendezvous: Arc<Rendezvous>,
    refusals: Arc<Refusals>,
}

impl RendezvousService {
    /// Over the tables that control opens and closes.
    pub fn new(rendezvous: Arc<Rendezvous>, refusals: Arc<Refusals>) -> Self {
        Self { rendezvous, refusals }
    }

    fn table(&self, scope: Option<v1::Scope>) -> Result<Arc<Table>, Failure> {
        let scope = scope.ok_or_else(|| Failure::new(FailureKind::Invalid, "a rendezvous call without a scope"))?;
        let (run, generation) = (request::run_id(&scope.run)?, Generation(scope.generation));
        self.rendezvous.table(&run, generation).inspect_err(|_| {
            self.refusals.count(&run, generation, Kind::Rendezvous, &scope.worker);
        })
    }
}

#[tonic::async_trait]
impl v1::rendezvous_server::Rendezvous for RendezvousService {
    async fn set(&self, request: Request<v1::KeyValue>) -> Result<Response<v1::Empty>, Status> {
        let v1::KeyValue { scope, key, value } = request.into_inner();
        self.table(scope)?.set(key, value)?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn get(&self, request: Request<v1::KeyRequest>) -> Result<Response<v1::Value>, Status> {
        let v1::KeyRequest { scope, key, wait_ms } = request.into_inner();
        let value = self.table(scope)?.get(&key, Duration::from_millis(wait_ms)).await?;
        Ok(Response::new(v1::Value { value }))
    }

    async fn add(&self, request: Request<v1::AddRequest>) -> Result<Response<v1::Sum>, Status> {
        let v1::AddRequest { scope, key, amount } = request.into_inner();
        Ok(Response::new(v1::Sum { value: self.table(scope)?.add(key, amount)? }))
    }

    async fn compare_set(&self, request: Request<v1::CompareSetRequest>) -> Result<Response<v1::Value>, Status> {
        let v1::CompareSetRequest { scope, key, expected, desired } = request.into_inner();
        let value = self.table(scope)?.compare_set(key, expected, desired)?;
        Ok(Response::new(v1::Value { value }))
    }

    async fn wait(&self, request: Request<v1::KeysRequest>) -> Result<Response<v1::Empty>, Status> {
        let v1::KeysRequest { scope, keys, wait_ms } = request.into_inner();
        self.table(scope)?.wait(&keys, Duration::from_millis(wait_ms)).await?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn check(&self, request: Request<v1::KeysRequest>) -> Result<Response<v1::Found>, Status> {
        let v1::KeysRequest { scope, keys, .. } = request.into_inner();
        Ok(Response::new(v1::Found { value: self.table(scope)?.check(&keys) }))
    }

    async fn delete(&self, request: Request<v1::KeyRequest>) -> Result<Response<v1::Found>, Status> {
        let v1::KeyRequest { scope, key, .. } = request.into_inner();
        Ok(Response::new(v1::Found { value: self.table(scope)?.delete(&key) }))
    }

    async fn count(&self, request: Request<v1::Scope>) -> Result<Response<v1::Sum>, Status> {
        let count = self.table(Some(request.into_inner()))?.count();
        Ok(Response::new(v1::Sum { value: i64::try_from(count).unwrap_or(i64::MAX) }))
    }
}
