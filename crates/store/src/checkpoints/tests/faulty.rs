//! An object store that breaks on demand.

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How the write that breaks, breaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Nothing happens any more: the process is gone.
    Crash,
    /// It happens, but the answer is lost; after it the process is gone.
    CrashAfter,
    /// The disk is full from here on; what is deleted is deleted.
    Full,
}

/// Counts writes and deletions; from number `at` on they break.
#[derive(Clone, Debug)]
pub struct Plan {
    fault: Fault,
    at: u64,
    done: Arc<AtomicU64>,
}

impl Plan {
    pub fn new(fault: Fault, at: u64) -> Self {
        Self { fault, at, done: Arc::default() }
    }

    /// How many writes and deletions were tried.
    pub fn tried(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Whether to do it, and whether to say that it failed.
    fn next(&self, deletes: bool) -> (bool, bool) {
        let number = self.done.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            _ if number < self.at => (true, false),
            Fault::Crash => (false, true),
            Fault::CrashAfter => (number == self.at, true),
            Fault::Full => (deletes, !deletes),
        }
    }

    fn error(&self) -> Error {
        let kind = if self.fault == Fault::Full { io::ErrorKind::StorageFull } else { io::ErrorKind::BrokenPipe };
        Error::Generic { store: "faulty", source: Box::new(io::Error::from(kind)) }
    }

    async fn run<T>(&self, write: impl Future<Output = Result<T>>) -> Result<T> {
        let (does, fails) = self.next(false);
        let written = if does { Some(write.await?) } else { None };
        written.filter(|_| !fails).ok_or_else(|| self.error())
    }
}

#[derive(Debug)]
pub struct FaultyStore {
    pub inner: Arc<dyn ObjectStore>,
    pub plan: Plan,
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.plan.run(self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.plan.run(self.inner.put_multipart_opts(location, options)).await?;
        Ok(Box::new(FaultyUpload { inner, plan: self.plan.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (plan, inner) = (self.plan.clone(), self.inner.clone());
        let delete = move |location: Result<Path>| {
            let (plan, inner) = (plan.clone(), inner.clone());
            async move {
                let location = location?;
                let (does, fails) = plan.next(true);
                if does {
                    let one = futures::stream::once(futures::future::ready(Ok(location.clone()))).boxed();
                    inner.delete_stream(one).next().await.expect("one answer for one path")?;
                }
                if fails { Err(plan.error()) } else { Ok(location) }
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.plan.run(self.inner.copy_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    plan: Plan,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (plan, part) = (self.plan.clone(), self.inner.put_part(data));
        async move { plan.run(part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let plan = self.plan.clone();
        plan.run(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let (does, fails) = self.plan.next(true);
        if does {
            self.inner.abort().await?;
        }
        if fails { Err(self.plan.error()) } else { Ok(()) }
    }
}
