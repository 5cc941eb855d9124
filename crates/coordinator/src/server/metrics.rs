//! The metric history, page by page.

use super::on_thread::OnThread;
use super::runs::find;
use super::wire;
use proto::v1;
use std::pin::Pin;
use store::{MetricQuery, Reader};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use types::Step;

/// Rows read at once, and rows that wait for a slow reader.
const PAGE: usize = 1024;

/// Serves `trireme.v1.Metrics`.
#[derive(Debug)]
pub struct MetricsService {
    reader: OnThread<Reader>,
}

impl MetricsService {
    /// Reads what is committed.
    pub fn new(reader: OnThread<Reader>) -> Self {
        Self { reader }
    }
}

#[tonic::async_trait]
impl v1::metrics_server::Metrics for MetricsService {
    type QueryStream = Pin<Box<dyn Stream<Item = Result<v1::Metric, Status>> + Send>>;

    async fn query(&self, request: Request<v1::QueryMetricsRequest>) -> Result<Response<Self::QueryStream>, Status> {
        let v1::QueryMetricsRequest { run, keys, from_step, superseded } = request.into_inner();
        let run = find(&self.reader, &run).await?.id;
        let query = MetricQuery { run, keys, from_step: Step(from_step), superseded };
        let (rows, stream) = tokio::sync::mpsc::channel(PAGE);
        let reader = self.reader.clone();
        tokio::spawn(async move {
            let mut after = None;
            loop {
                let page = {
                    let (query, after) = (query.clone(), after.clone());
                    reader.call(move |reader| reader.metrics(&query, after.as_ref(), PAGE)).await
                };
                let page = match page {
                    Ok(page) => page,
                    Err(error) => {
                        let _ = rows.send(Err(wire::database_failure(error).into())).await;
                        return;
                    }
                };
                let last = page.len() < PAGE;
                after = page.last().map(store::MetricRow::position);
                for row in page {
                    if rows.send(Ok(wire::metric(row))).await.is_err() {
                        return;
                    }
                }
                if last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
