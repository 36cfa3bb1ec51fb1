//! A proxy that stands between a client and a server, and causes faults.

mod connection;
mod fault;
mod message;
mod shared;

use std::fmt::{self, Debug};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use self::shared::Shared;

pub use fault::Fault;
pub use message::{ProxiedRequest, RequestKind, Response};

/// A proxy for a server that speaks HTTP/1.1. It forwards requests as they are, with the `Host` that the client signed,
/// and counts them. A plan says which fault a request meets.
///
/// ```
/// use torchcache_servers::{Fault, FaultProxy, RequestKind};
///
/// let server = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
/// let proxy = FaultProxy::start(server)?;
/// proxy.set_plan(|request| match request.kind() {
///     RequestKind::Put => Fault::denied(),
///     _ => Fault::None,
/// });
/// assert_eq!(proxy.count(RequestKind::Put), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultProxy({} for {})", self.address, self.shared.server)
    }
}

impl FaultProxy {
    /// Starts a proxy for a server, which need not run yet. At first no request meets a fault.
    ///
    /// # Errors
    /// The system has no port or no thread.
    pub fn start(server: SocketAddr) -> io::Result<FaultProxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let shared = Arc::new(Shared::new(server));
        let address = listener.local_addr()?;
        let of_thread = shared.clone();
        let listening = Builder::new()
            .name("proxy".to_owned())
            .spawn(move || listen(&listener, &of_thread))?;
        Ok(FaultProxy {
            address,
            shared,
            listening: Some(listening),
        })
    }

    /// The URL for clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets which fault each later request meets.
    pub fn set_plan(&self, plan: impl Fn(&ProxiedRequest) -> Fault + Send + Sync + 'static) {
        self.shared.set_plan(Arc::new(plan));
    }

    /// From now on, all requests meet this fault.
    pub fn set_fault(&self, fault: Fault) {
        self.set_plan(move |_| fault.clone());
    }

    /// How many requests of a kind came, since the start or the last [`reset_counts`](Self::reset_counts).
    pub fn count(&self, kind: RequestKind) -> usize {
        self.shared.count(kind)
    }

    /// The most requests that were under way at a time, until their answers began, since the start or the last
    /// [`reset_counts`](Self::reset_counts).
    pub fn most_under_way(&self) -> usize {
        self.shared.most_under_way()
    }

    /// How many requests are under way now: their answers have not begun.
    pub fn under_way(&self) -> usize {
        self.shared.under_way()
    }

    /// Begins to count again.
    pub fn reset_counts(&self) {
        self.shared.reset_counts();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stop();
        // The thread waits for a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

/// Serves each connection on a thread of its own, which ends soon after the proxy stops.
fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.is_stopping() {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = shared.clone();
        let builder = Builder::new().name("proxy-connection".to_owned());
        // A connection that gets no thread is closed.
        let _ = builder.spawn(move || connection::serve(&stream, &shared));
    }
}
