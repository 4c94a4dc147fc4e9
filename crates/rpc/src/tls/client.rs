//! Channels to an agent or controller whose identity is known beforehand.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::credentials::Credentials;
use crate::identity::{Identity, UnknownIdentity};

/// How long a peer's kernel may leave what was sent without an answer, or take nothing more, before its connection is given up. A pod that is frozen waits no
/// longer than this for a network that is gone. Pings below HTTP would notice later: they wait behind what is on its way.
const SILENCE: Duration = Duration::from_secs(5);

/// Why no connection came about. Seen as the source of a `tonic::Status` with code `Unavailable`.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not host:port, or the identity is no DNS name.
    #[error("{0} is not an address to connect to")]
    Address(String),
    /// TCP.
    #[error("{address} cannot be reached")]
    Tcp {
        /// Where to.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// TLS: among other things when the server is not who it should be.
    #[error("no TLS with {expected} at {address}")]
    Tls {
        /// Where to.
        address: String,
        /// Who should be there.
        expected: Identity,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificate is valid for the name, but for another identity.
    #[error("{address} is {found}, expected {expected}")]
    WrongPeer {
        /// Where to.
        address: String,
        /// Who should be there.
        expected: Identity,
        /// Who is there.
        found: Identity,
    },
    /// The certificate names nobody known.
    #[error("{address} is nobody known")]
    Nobody {
        /// Where to.
        address: String,
        /// What it names.
        #[source]
        source: UnknownIdentity,
    },
}

/// A channel to `address` (host:port), on which only `expected` is accepted. It connects when it is first used and again whenever the connection is lost.
///
/// # Errors
/// [`ConnectError::Address`] when the address cannot be one.
pub fn connect(address: &str, expected: Identity, credentials: Arc<Credentials>) -> Result<Channel, ConnectError> {
    let wrong = || ConnectError::Address(address.to_owned());
    let name = ServerName::try_from(expected.server_name()).map_err(|_| wrong())?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| wrong())?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20);
    let address = address.to_owned();
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (address, name, expected, credentials) = (address.clone(), name.clone(), expected.clone(), Arc::clone(&credentials));
        async move { dial(address, name, expected, &credentials).await.map(TokioIo::new) }
    })))
}

async fn dial(address: String, name: ServerName<'static>, expected: Identity, credentials: &Credentials) -> Result<TlsStream<TcpStream>, ConnectError> {
    let tcp = TcpStream::connect(&address).await.map_err(|source| ConnectError::Tcp { address: address.clone(), source })?;
    let millis = u32::try_from(SILENCE.as_millis()).unwrap_or(u32::MAX);
    // TCP_USER_TIMEOUT, tcp(7).
    tcp.set_nodelay(true)
        .and_then(|()| Ok(rustix::net::sockopt::set_tcp_user_timeout(&tcp, millis)?))
        .map_err(|source| ConnectError::Tcp { address: address.clone(), source })?;
    let tls = TlsConnector::from(Arc::clone(&credentials.now().client)).connect(name, tcp).await.map_err(|source| ConnectError::Tls {
        address: address.clone(),
        expected: expected.clone(),
        source,
    })?;
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first).map(AsRef::as_ref).unwrap_or_default();
    match Identity::of_certificate(certificate) {
        Ok(found) if found == expected => Ok(tls),
        Ok(found) => Err(ConnectError::WrongPeer { address, expected, found }),
        Err(source) => Err(ConnectError::Nobody { address, source }),
    }
}
