//! Reading requests: the wire's plain fields become newtypes here, once.

use proto::v1;
use proto::{Failure, FailureKind};
use types::{RunId, WorkerId};

fn invalid(error: &types::InvalidId) -> Failure {
    Failure::new(FailureKind::Invalid, error.to_string())
}

/// A run's id.
pub fn run_id(text: &str) -> Result<RunId, Failure> {
    text.parse().map_err(|error| invalid(&error))
}

/// A worker's id.
pub fn worker_id(text: &str) -> Result<WorkerId, Failure> {
    text.parse().map_err(|error| invalid(&error))
}

/// A checkpoint's name; it may not be left out.
pub fn checkpoint(reference: Option<v1::CheckpointRef>) -> Result<v1::CheckpointRef, Failure> {
    reference.ok_or_else(|| Failure::new(FailureKind::Invalid, "a call that names no checkpoint"))
}

/// Which run is meant: an id, an unambiguous beginning of one, a name (the newest of that name) or `latest`.
/// `runs` are (id, name), oldest first.
pub fn find_run<'a>(wanted: &str, runs: &'a [(RunId, String)]) -> Result<&'a RunId, Failure> {
    let not_found = |message: String| Err(Failure::new(FailureKind::NotFound, message));
    if wanted == "latest" {
        return match runs.last() {
            Some((id, _)) => Ok(id),
            None => not_found("there is no run yet; `coordinator submit FILE` makes one".to_owned()),
        };
    }
    if let Some((id, _)) = runs.iter().find(|(id, _)| id.as_str() == wanted) {
        return Ok(id);
    }
    if let Some((id, _)) = runs.iter().rev().find(|(_, name)| name == wanted) {
        return Ok(id);
    }
    let mut matches = runs.iter().map(|(id, _)| id).filter(|id| !wanted.is_empty() && id.as_str().starts_with(wanted));
    match (matches.next(), matches.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => {
            let message = format!("`{wanted}` begins the id of more than one run; give more of it");
            Err(Failure::new(FailureKind::Invalid, message))
        }
        (None, _) => not_found(format!("there is no run `{wanted}`; `coordinator runs list` shows all")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_found_by_id_beginning_name_or_latest() {
        let runs: Vec<(RunId, String)> = [("aa1", "bert"), ("ab2", "bert"), ("ac3", "mini")]
            .map(|(id, name)| (id.parse().unwrap(), name.to_owned()))
            .into();
        let find = |wanted: &str| find_run(wanted, &runs).map(RunId::as_str).map_err(|failure| failure.kind);
        assert_eq!(find("aa1"), Ok("aa1"));
        assert_eq!(find("ab"), Ok("ab2"));
        assert_eq!(find("bert"), Ok("ab2"));
        assert_eq!(find("latest"), Ok("ac3"));
        assert_eq!(find("a"), Err(FailureKind::Invalid));
        assert_eq!(find("x"), Err(FailureKind::NotFound));
        assert_eq!(find(""), Err(FailureKind::NotFound));
        assert_eq!(find_run("latest", &[]).unwrap_err().kind, FailureKind::NotFound);
    }
}
