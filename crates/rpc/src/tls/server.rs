//! A listener whose connections know who is at the other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::peer::Peer;
use crate::credentials::Credentials;
use crate::identity::Identity;

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after `accept` failed, e.g. for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Largest frame that a client may send, in bytes: with HTTP/2's 16 KiB a copy of memory is busy with the heads of frames.
const FRAME: u32 = 256 << 10;

/// A connection whose client has shown a certificate of our CA.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

/// A server with our settings; add services, then `serve_with_incoming(incoming(listener, credentials))`.
#[must_use]
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(FRAME)
}

/// Connections from `listener`, after their handshake. A client that fails it is dropped and logged; the stream goes on.
pub fn incoming(listener: TcpListener, credentials: Arc<Credentials>) -> impl Stream<Item = io::Result<Connection>> + Send + 'static {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let (sender, credentials) = (sender.clone(), Arc::clone(&credentials));
                    tokio::spawn(async move {
                        match shake_hands(stream, address, &credentials).await {
                            Ok(connection) => {
                                let _ = sender.send(Ok(connection)).await;
                            }
                            // The kubelet only tries whether the port answers.
                            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                                tracing::trace!(%address, %error, "nobody's connection");
                            }
                            Err(error) => tracing::warn!(%address, %error, "refused a connection"),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn shake_hands(stream: TcpStream, address: SocketAddr, credentials: &Credentials) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(Arc::clone(&credentials.now().server));
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(AsRef::as_ref).unwrap_or_default();
    let identity = Identity::of_certificate(certificate).map_err(io::Error::other)?;
    Ok(Connection { stream, peer: Peer { identity, address } })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
