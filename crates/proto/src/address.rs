//! Where a coordinator listens.

/// What to do about an address that is none.
pub const ADDRESS_HELP: &str = "write HOST:PORT, for example 127.0.0.1:7117";

/// `HOST:PORT` of an address, which may begin with `http://`.
///
/// # Errors
/// What is wrong with it.
pub fn authority(address: &str) -> Result<&str, &'static str> {
    let bare = address.strip_prefix("http://").unwrap_or(address);
    match bare.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>())) {
        Some(Ok(port)) if port > 0 => Ok(bare),
        Some(_) => Err("the port must be a number from 1 to 65535"),
        None => Err("the port is missing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        assert_eq!(authority("http://127.0.0.1:7117"), Ok("127.0.0.1:7117"));
        assert_eq!(authority("node-3:80"), Ok("node-3:80"));
        assert_eq!(authority("7117"), Err("the port is missing"));
        assert_eq!(authority(":7117"), Err("the port is missing"));
        assert_eq!(authority("localhost:port"), Err("the port must be a number from 1 to 65535"));
        assert_eq!(authority("localhost:0"), Err("the port must be a number from 1 to 65535"));
    }
}
