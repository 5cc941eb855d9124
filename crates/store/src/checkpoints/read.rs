//! Listing, reading and verifying what is committed.

use super::error::list;
use super::id::run_folder;
use super::manifest::MANIFEST;
use super::{CheckpointError, CheckpointFile, CheckpointId, CheckpointRepository, Manifest};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use std::fmt;
use types::{Digest, RunId};

/// One file that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointProblem {
    /// Its name within the checkpoint's folder.
    pub file: String,
    /// Missing, too short, altered.
    pub message: String,
}

impl fmt::Display for CheckpointProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.file, self.message)
    }
}

impl CheckpointFile {
    /// What is wrong with it if its blake3 is this one.
    pub fn altered(&self, found: Digest) -> CheckpointProblem {
        let message = format!("altered: its blake3 is {found} instead of {}", self.blake3);
        CheckpointProblem { file: self.name.clone(), message }
    }
}

/// What the search for a good checkpoint found.
#[derive(Clone, Debug, PartialEq)]
pub struct NewestGood {
    /// The newest one whose every byte is right.
    pub good: Option<Manifest>,
    /// The newer ones that were passed over, newest first, and why.
    pub bad: Vec<(CheckpointId, Vec<CheckpointProblem>)>,
}

impl CheckpointRepository {
    /// The committed checkpoints of a run, oldest first (see [`CheckpointId::age`]). One whose manifest is damaged or
    /// cannot be read is left out here; [`Self::newest_good`] names it.
    ///
    /// # Errors
    /// The folder itself cannot be listed: that says nothing about what is in it.
    pub async fn list(&self, run: &RunId) -> Result<Vec<Manifest>, CheckpointError> {
        let mut found = Vec::new();
        for id in self.folders(run).await? {
            match self.manifest(&id).await {
                Ok(manifest) => found.push(manifest),
                Err(CheckpointError::NotFound(_)) => {}
                // One bad file must not hide the good checkpoints beside it.
                Err(error) => {
                    tracing::warn!(run = %run, generation = id.generation.0, step = id.step.0, %error, "left out");
                }
            }
        }
        Ok(found)
    }

    /// The manifest of a committed checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::NotFound`] if there is none, [`CheckpointError::Damaged`] if it is not what was written.
    pub async fn manifest(&self, id: &CheckpointId) -> Result<Manifest, CheckpointError> {
        let text = self.get_small(id, MANIFEST).await?.ok_or_else(|| CheckpointError::NotFound(id.clone()))?;
        Manifest::from_text(&text, id).map_err(|message| CheckpointError::Damaged {
            checkpoint: id.clone(),
            problems: vec![CheckpointProblem { file: MANIFEST.to_owned(), message }],
        })
    }

    /// One file of a committed checkpoint, in chunks. Size and hash are in the manifest; whoever reads compares.
    ///
    /// # Errors
    /// No such checkpoint, no such file in its manifest, a file that is missing.
    pub async fn open_file(
        &self,
        id: &CheckpointId,
        name: &str,
    ) -> Result<(CheckpointFile, BoxStream<'static, Result<Bytes, CheckpointError>>), CheckpointError> {
        let manifest = self.manifest(id).await?;
        let no_such_file = || CheckpointError::NoSuchFile { checkpoint: id.clone(), file: name.to_owned() };
        let file = manifest.file(name).ok_or_else(no_such_file)?.clone();
        let shown = self.shown(id, name);
        let content = match self.store.get(&self.path(id, name)).await {
            Ok(content) => content.into_stream(),
            Err(object_store::Error::NotFound { .. }) => {
                let problem = CheckpointProblem { file: name.to_owned(), message: "missing".to_owned() };
                return Err(CheckpointError::Damaged { checkpoint: id.clone(), problems: vec![problem] });
            }
            Err(error) => return Err(CheckpointError::io("read", shown, &error)),
        };
        Ok((file, content.map_err(move |error| CheckpointError::io("read", &shown, &error)).boxed()))
    }

    /// Reads every byte again and compares with the manifest. Empty: all is well.
    ///
    /// # Errors
    /// No such checkpoint; a store that fails. A damaged manifest is not an error but a problem.
    pub async fn verify(&self, id: &CheckpointId) -> Result<Vec<CheckpointProblem>, CheckpointError> {
        let manifest = match self.manifest(id).await {
            Err(CheckpointError::Damaged { problems, .. }) => return Ok(problems),
            other => other?,
        };
        let mut problems = Vec::new();
        for file in &manifest.files {
            if let Some(message) = self.verify_file(id, file).await? {
                problems.push(CheckpointProblem { file: file.name.clone(), message });
            }
        }
        Ok(problems)
    }

    async fn verify_file(&self, id: &CheckpointId, file: &CheckpointFile) -> Result<Option<String>, CheckpointError> {
        let failed = |error| CheckpointError::io("read", self.shown(id, &file.name), &error);
        let found = match self.store.get(&self.path(id, &file.name)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(Some("missing".to_owned())),
            other => other.map_err(failed)?,
        };
        if found.meta.size != file.bytes {
            return Ok(Some(format!("{} bytes instead of {}", found.meta.size, file.bytes)));
        }
        let mut content = found.into_stream();
        let mut hasher = blake3::Hasher::new();
        while let Some(chunk) = content.try_next().await.map_err(failed)? {
            hasher.update(&chunk);
        }
        let found = Digest(*hasher.finalize().as_bytes());
        Ok((found != file.blake3).then(|| file.altered(found).message))
    }

    /// The newest checkpoint of a run that is `usable` and whose every byte is right. Those that are not usable, say
    /// because a rewind superseded them, are not read.
    ///
    /// # Errors
    /// The store cannot be listed, or no checkpoint is good and one of them could not be read: another try may find it.
    pub async fn newest_good(
        &self,
        run: &RunId,
        usable: impl Fn(&CheckpointId) -> bool,
    ) -> Result<NewestGood, CheckpointError> {
        let (mut bad, mut unreadable) = (Vec::new(), None);
        for id in self.folders(run).await?.into_iter().rev().filter(usable) {
            let problems = match self.verified(&id).await {
                Ok(Ok(manifest)) => return Ok(NewestGood { good: Some(manifest), bad }),
                Ok(Err(problems)) => problems,
                Err(CheckpointError::NotFound(_)) => continue,
                Err(error) => {
                    let (file, message) = error.place();
                    unreadable.get_or_insert(error);
                    vec![CheckpointProblem { file, message }]
                }
            };
            let found = list(&problems);
            tracing::warn!(run = %run, generation = id.generation.0, step = id.step.0, found, "bad checkpoint");
            bad.push((id, problems));
        }
        match unreadable {
            // What cannot be read now may be good: to call it nothing would throw the run's work away.
            Some(error) => Err(error),
            None => Ok(NewestGood { good: None, bad }),
        }
    }

    /// The manifest, or what is wrong.
    async fn verified(&self, id: &CheckpointId) -> Result<Result<Manifest, Vec<CheckpointProblem>>, CheckpointError> {
        let problems = self.verify(id).await?;
        if problems.is_empty() { self.manifest(id).await.map(Ok) } else { Ok(Err(problems)) }
    }

    /// All checkpoint folders of a run, committed or not, oldest first.
    pub async fn folders(&self, run: &RunId) -> Result<Vec<CheckpointId>, CheckpointError> {
        let folder = run_folder(&self.base, run);
        let listed = self.store.list_with_delimiter(Some(&folder)).await;
        let listed =
            listed.map_err(|error| CheckpointError::io("list", format!("{}/{folder}", self.address), &error))?;
        let mut found: Vec<_> =
            listed.common_prefixes.iter().filter_map(|folder| CheckpointId::of_folder(run, folder)).collect();
        found.sort_by_key(CheckpointId::age);
        Ok(found)
    }

    /// A small file, whole; `None` if it is not there.
    pub(super) async fn get_small(&self, id: &CheckpointId, name: &str) -> Result<Option<Bytes>, CheckpointError> {
        let failed = |error| CheckpointError::io("read", self.shown(id, name), &error);
        match self.store.get(&self.path(id, name)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            other => other.map_err(failed)?.bytes().await.map(Some).map_err(failed),
        }
    }
}
