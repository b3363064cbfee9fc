//! One connection to a service, kept open, opened anew when the service closed it.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, Uri};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Larger answers are not read.
const LARGEST: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
#[error("{url:?} is no address of a service: {reason}; write http://HOST:PORT")]
pub struct AddressError {
    url: String,
    reason: &'static str,
}

/// Host and port of a URL.
#[derive(Debug, Clone)]
pub struct Address {
    /// For the `host` header.
    authority: String,
    /// For the connection.
    target: String,
    /// Before every path, without a slash at its end.
    prefix: String,
}

impl Address {
    /// # Errors
    /// No host, or not plain HTTP.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let wrong = |reason| AddressError { url: url.to_owned(), reason };
        let uri: Uri = url.parse().map_err(|_| wrong("it cannot be read"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only http is spoken"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        let target = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        Ok(Self { authority: authority.to_string(), target, prefix: uri.path().trim_end_matches('/').to_owned() })
    }
}

/// What a request came to.
#[derive(Debug)]
pub enum Answer {
    Body(Vec<u8>),
    /// Refused, or not answered: why, in a word.
    Failed(String),
}

/// A connection, or the wish for one.
#[derive(Debug)]
pub struct Client {
    address: Address,
    sender: Option<SendRequest<Body>>,
    /// Connections opened so far.
    pub opened: u64,
}

impl Client {
    pub fn new(address: Address) -> Self {
        Self { address, sender: None, opened: 0 }
    }

    /// Sends a JSON body. A connection that the service closed while nothing was under way is no failure: as every client does,
    /// the request is sent once more on a new one.
    pub async fn post(&mut self, path: &str, body: &str) -> Answer {
        match tokio::time::timeout(PATIENCE, self.send(path, body)).await {
            Ok(answer) => answer,
            Err(_) => {
                self.sender = None;
                Answer::Failed("timeout".into())
            }
        }
    }

    async fn send(&mut self, path: &str, body: &str) -> Answer {
        let mut fresh = false;
        loop {
            if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
                match self.open().await {
                    Ok(sender) => self.sender = Some(sender),
                    Err(kind) => return Answer::Failed(kind),
                }
                fresh = true;
            }
            let Some(sender) = &mut self.sender else { continue };
            let request = Request::post(format!("{}{path}", self.address.prefix))
                .header("host", &self.address.authority)
                .header("content-type", "application/json")
                .body(Body::from(body.to_owned()));
            let Ok(request) = request else { return Answer::Failed("request".into()) };
            let ready = sender.ready().await.is_ok();
            match if ready { Some(sender.send_request(request).await) } else { None } {
                Some(Ok(response)) => {
                    let status = response.status();
                    return match to_bytes(Body::new(response.into_body()), LARGEST).await {
                        Ok(bytes) if status == StatusCode::OK => Answer::Body(bytes.to_vec()),
                        Ok(_) => Answer::Failed(format!("status_{}", status.as_u16())),
                        Err(_) => self.broken("body"),
                    };
                }
                Some(Err(error)) if fresh || !(error.is_canceled() || error.is_closed()) => {
                    return self.broken("connection");
                }
                None if fresh => return self.broken("connection"),
                _ => self.sender = None,
            }
        }
    }

    fn broken(&mut self, kind: &str) -> Answer {
        self.sender = None;
        Answer::Failed(kind.to_owned())
    }

    async fn open(&mut self) -> Result<SendRequest<Body>, String> {
        let stream = TcpStream::connect(&self.address.target).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "refused".to_owned(),
            _ => "unreachable".to_owned(),
        })?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| "connection".to_owned())?;
        tokio::spawn(connection);
        self.opened += 1;
        Ok(sender)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let address = Address::parse("http://rul.mlops:8000/some/place/").unwrap();
        assert_eq!((address.target.as_str(), address.prefix.as_str()), ("rul.mlops:8000", "/some/place"));
        assert_eq!(Address::parse("http://rul").unwrap().target, "rul:80");
        for wrong in ["rul:8000", "https://rul", "", "http://", "file:///x"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}
