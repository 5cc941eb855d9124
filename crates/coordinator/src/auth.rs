//! The cluster's token: every RPC shows it as `authorization: Bearer TOKEN`; health and reflection need none.

use proto::{Failure, FailureKind};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

const HEADER: &str = "authorization";

/// Server side: lets a request through if it shows the token.
#[derive(Clone, Debug)]
pub struct RequireToken {
    // Hashes compare in constant time, whatever the lengths. None: everybody may enter.
    expected: Option<blake3::Hash>,
}

impl RequireToken {
    /// Only requests with this token; with None, all.
    pub fn new(token: Option<&str>) -> Self {
        Self { expected: token.map(|token| blake3::hash(token.as_bytes())) }
    }
}

impl Interceptor for RequireToken {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(expected) = self.expected else {
            return Ok(request);
        };
        let refuse = |message: &str| Status::from(Failure::new(FailureKind::Unauthenticated, message));
        let shown = request
            .metadata()
            .get(HEADER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| {
                refuse("no token was shown; set TRIREME_TOKEN or --token-file to the coordinator's `<data-dir>/token`")
            })?;
        if blake3::hash(shown.trim().as_bytes()) == expected {
            Ok(request)
        } else {
            Err(refuse("the token is not this coordinator's; use the contents of its `<data-dir>/token`"))
        }
    }
}

/// Client side: shows the token with every request, if there is one.
#[derive(Clone, Debug)]
pub struct ShowToken {
    value: Option<MetadataValue<Ascii>>,
}

impl ShowToken {
    /// Shows `token`; None if it holds what no header can carry.
    pub fn new(token: Option<&str>) -> Option<Self> {
        let Some(token) = token else {
            return Some(Self { value: None });
        };
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().ok()?;
        value.set_sensitive(true);
        Some(Self { value: Some(value) })
    }
}

impl Interceptor for ShowToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.value {
            request.metadata_mut().insert(HEADER, value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(shown: Option<&str>, expected: Option<&str>) -> Result<(), tonic::Code> {
        let request = ShowToken::new(shown).unwrap().call(Request::new(())).unwrap();
        RequireToken::new(expected).call(request).map(|_| ()).map_err(|status| status.code())
    }

    #[test]
    fn only_the_token_opens() {
        assert_eq!(answer(Some("right"), Some("right")), Ok(()));
        assert_eq!(answer(Some("wrong"), Some("right")), Err(tonic::Code::Unauthenticated));
        assert_eq!(answer(None, Some("right")), Err(tonic::Code::Unauthenticated));
        assert_eq!(answer(None, None), Ok(()));
    }
}
