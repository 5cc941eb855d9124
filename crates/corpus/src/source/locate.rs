//! From what a config says (a path, a glob, a URL) to files in an object store; the local disk is one too.

use super::Io;
use crate::{CorpusError, ErrorKind};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use url::Url;

/// One file that exists.
#[derive(Clone)]
pub(super) struct Located {
    /// As a person would write it.
    pub(super) name: String,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) size: u64,
    /// The same for every name of one file: links, `./`, overlapping globs.
    pub(super) identity: String,
}

impl Located {
    /// The whole file.
    pub(super) async fn bytes(&self) -> Result<Bytes, CorpusError> {
        let read = async { self.store.get(&self.path).await?.bytes().await };
        read.await.map_err(|error| store_error(&self.name, &error))
    }
}

const WILDCARDS: [char; 3] = ['*', '?', '['];

/// Everything that `text` names; never nothing.
pub(super) fn locate(text: &str, io: &Io) -> Result<Vec<Located>, CorpusError> {
    let found = match text.split_once("://") {
        Some(("file", path)) => local(path)?,
        Some(_) => io.block_on(remote(text))?,
        None => local(text)?,
    };
    if found.is_empty() {
        return Err(CorpusError::new(
            ErrorKind::NotFound,
            text,
            "no file matches",
            "check the spelling; relative paths start at the config file's folder, or where a command names them at the working directory",
        ));
    }
    Ok(found)
}

fn local(text: &str) -> Result<Vec<Located>, CorpusError> {
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
    let paths = if std::path::Path::new(text).exists() || !text.contains(WILDCARDS) {
        vec![std::path::PathBuf::from(text)]
    } else {
        let bad = |message: String| {
            CorpusError::new(ErrorKind::NotFound, text, message, "a glob is like data/*.parquet or data/**/*.parquet")
        };
        let entries = glob::glob(text).map_err(|error| bad(format!("not a glob: {error}")))?;
        let mut paths: Vec<_> =
            entries.collect::<Result<_, _>>().map_err(|error| bad(format!("cannot be listed: {error}")))?;
        paths.retain(|path| path.is_file());
        paths
    };
    paths
        .into_iter()
        .map(|path| {
            let name = path.display().to_string();
            let metadata = std::fs::metadata(&path).map_err(|error| io_error(&name, &error))?;
            if metadata.is_dir() {
                return Err(CorpusError::new(
                    ErrorKind::NotFound,
                    name.as_str(),
                    "is a folder",
                    format!("name its files, for example {name}/*.parquet"),
                ));
            }
            let location = std::path::absolute(&path)
                .map_err(|error| io_error(&name, &error))
                .and_then(|path| Path::from_absolute_path(path).map_err(|error| store_error(&name, &error.into())))?;
            let identity = format!("{}:{}", metadata.dev(), metadata.ino());
            Ok(Located { name, store: store.clone(), path: location, size: metadata.len(), identity })
        })
        .collect()
}

async fn remote(text: &str) -> Result<Vec<Located>, CorpusError> {
    let wildcard = text.find(WILDCARDS);
    let fixed = wildcard.map_or(text, |at| &text[..text[..at].rfind('/').map_or(0, |slash| slash + 1)]);
    let url = Url::parse(fixed).map_err(|error| {
        CorpusError::new(
            ErrorKind::NotFound,
            text,
            format!("not a URL: {error}"),
            "for example s3://bucket/data/*.parquet",
        )
    })?;
    // Credentials and endpoints come from the environment, under the names that the clouds' own tools use.
    let (store, prefix) =
        object_store::parse_url_opts(&url, std::env::vars()).map_err(|error| store_error(text, &error))?;
    let store: Arc<dyn ObjectStore> = store.into();
    if wildcard.is_none() {
        let meta = store.head(&prefix).await.map_err(|error| store_error(text, &error))?;
        let identity = format!("{}/{prefix}", &url[..url::Position::BeforePath]);
        return Ok(vec![Located { name: text.to_owned(), store, path: prefix, size: meta.size, identity }]);
    }
    let pattern = text.strip_prefix(fixed).unwrap_or_default();
    let pattern = glob::Pattern::new(pattern).map_err(|error| {
        CorpusError::new(
            ErrorKind::NotFound,
            text,
            format!("not a glob: {error}"),
            "for example s3://bucket/data/*.parquet",
        )
    })?;
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    let mut found: Vec<_> =
        store.list(Some(&prefix)).try_collect::<Vec<_>>().await.map_err(|error| store_error(text, &error))?;
    found.sort_by(|a, b| a.location.cmp(&b.location));
    let tail = |path: &Path| -> String {
        let whole = path.as_ref();
        whole.strip_prefix(prefix.as_ref()).unwrap_or(whole).trim_start_matches('/').to_owned()
    };
    let matching = found.into_iter().filter(|meta| pattern.matches_with(&tail(&meta.location), options));
    Ok(matching
        .map(|meta| Located {
            name: format!("{fixed}{}", tail(&meta.location)),
            identity: format!("{}/{}", &url[..url::Position::BeforePath], meta.location),
            store: store.clone(),
            path: meta.location,
            size: meta.size,
        })
        .collect())
}

pub(super) fn store_error(name: &str, error: &object_store::Error) -> CorpusError {
    use object_store::Error;
    let kind = match error {
        Error::NotFound { .. } => return not_found(name),
        // A disk does not get better by waiting, nor do rights; the network does. The store has tried again already.
        Error::Generic { store, .. } if *store != "LocalFileSystem" => ErrorKind::Io,
        Error::JoinError { .. } => ErrorKind::Io,
        _ => ErrorKind::Unreadable,
    };
    let help = if name.contains("://") {
        "check the URL, the network, and the credentials in the environment (AWS_*, GOOGLE_*, AZURE_*)"
    } else {
        "check the file's permissions and its disk"
    };
    CorpusError::new(kind, name, format!("cannot be read: {error}"), help)
}

fn io_error(name: &str, error: &std::io::Error) -> CorpusError {
    if error.kind() == std::io::ErrorKind::NotFound {
        return not_found(name);
    }
    let help = "check the file's permissions and its disk";
    CorpusError::new(ErrorKind::Unreadable, name, format!("cannot be read: {error}"), help)
}

fn not_found(name: &str) -> CorpusError {
    CorpusError::new(
        ErrorKind::NotFound,
        name,
        "no such file",
        "check the spelling; relative paths start at the config file's folder, or where a command names them at the working directory",
    )
}
