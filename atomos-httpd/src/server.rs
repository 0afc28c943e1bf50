//! The listener, and the connections that it has.
//!
//! One thread accepts, and each connection has one. Where there are as many as may be, the one that has been idle for
//! longest is closed, or the next waits in the kernel's queue until one ends. Stopping lets running answers finish, for
//! a while.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::set_socket_linger;

use crate::connection::{After, Times, Wire};
use crate::request::Request;
use crate::site::Site;

/// How a server behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Where to listen; port 0 is any that is free.
    pub listen: SocketAddr,
    /// The most connections at once, each of which has a thread.
    pub max_connections: usize,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// How long the head of a request may take.
    pub head_timeout: Duration,
    /// How long a client may take for 64 KiB of an answer.
    pub piece_timeout: Duration,
    /// Who is told of every request.
    pub observer: Observer,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            max_connections: 128,
            idle_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(10),
            piece_timeout: Duration::from_secs(30),
            observer: Observer::default(),
        }
    }
}

/// A request that was answered, or could not be.
#[derive(Debug)]
#[non_exhaustive]
pub struct LogEntry<'a> {
    /// Who asked.
    pub peer: SocketAddr,
    /// What was asked for; `None` where that was not understood.
    pub request: Option<&'a Request>,
    /// The status of the answer.
    pub status: u16,
    /// How many bytes of the body were sent.
    pub bytes: u64,
    /// Whether the whole answer was sent.
    pub complete: bool,
}

/// Is told of every request, on the thread that answered it.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<Observe>>);

type Observe = dyn Fn(&LogEntry<'_>) + Send + Sync;

impl Observer {
    /// Takes what is to be called.
    pub fn new(observe: impl Fn(&LogEntry<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observe)))
    }

    fn tell(&self, entry: &LogEntry<'_>) {
        if let Some(observe) = &self.0 {
            observe(entry);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Observer"
        } else {
            "no Observer"
        })
    }
}

/// A server cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The directory cannot be opened.
    #[error("cannot open the directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address cannot be listened at.
    #[error("cannot listen at {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one; `keep` is whether the server would keep the connection.
    fn handle(&self, request: &Request, wire: &mut Wire, keep: bool) -> io::Result<After>;
}

impl Handler for Site {
    fn handle(&self, request: &Request, wire: &mut Wire, keep: bool) -> io::Result<After> {
        wire.send(request, &self.answer(request), keep)
    }
}

/// A running server. It stops when dropped, with whatever it is sending.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    wake: UnixStream,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    handler: Box<dyn Handler>,
    options: ServerOptions,
    stopping: AtomicBool,
    connections: Mutex<Connections>,
    /// A connection ended, or the server is to.
    changed: Condvar,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Connections {
    /// How many there were.
    total: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    /// To end it from another thread.
    stream: TcpStream,
    /// Since when it has been waiting for a request.
    idle_since: Option<Instant>,
}

impl Server {
    /// Serves the directory at `path`.
    ///
    /// # Errors
    ///
    /// If the directory cannot be opened, or the address not listened at.
    pub fn start(path: impl AsRef<Path>, options: ServerOptions) -> Result<Self, ServeError> {
        let path = path.as_ref();
        let site = Site::open(path).map_err(|source| ServeError::Directory {
            path: path.to_owned(),
            source,
        })?;
        Self::start_handler(Box::new(site), options)
    }

    pub(crate) fn start_handler(
        handler: Box<dyn Handler>,
        options: ServerOptions,
    ) -> Result<Self, ServeError> {
        let fail = |source| ServeError::Listen {
            address: options.listen,
            source,
        };
        let listener = TcpListener::bind(options.listen).map_err(fail)?;
        // Whoever connected may be gone again when he is accepted.
        listener.set_nonblocking(true).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let (wake, woken) = UnixStream::pair().map_err(fail)?;
        let shared = Arc::new(Shared {
            handler,
            options: options.clone(),
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || accept_all(&accepting, &listener, &woken))
            .map_err(fail)?;
        Ok(Self {
            address,
            shared,
            wake,
            acceptor: Some(acceptor),
        })
    }

    /// Returns where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its address for a client, without a `/` at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns how many connections there were.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections().total
    }

    /// Stops. Answers that are being sent may take `patience` to finish; returns how many were cut off.
    pub fn stop(mut self, patience: Duration) -> usize {
        self.end(patience)
    }

    fn end(&mut self, patience: Duration) -> usize {
        let Some(acceptor) = self.acceptor.take() else {
            return 0;
        };
        {
            // Under the lock: a connection becomes idle or busy under it, too, and then looks at the flag.
            let connections = self.shared.connections();
            self.shared.stopping.store(true, Ordering::SeqCst);
            for open in connections.open.values().filter(|open| open.idle_since.is_some()) {
                open.end();
            }
        }
        self.shared.changed.notify_all();
        // A full pipe would wake it as well.
        let _ = self.wake.write_all(b"x");
        // It ends when it panics, too, and then there is nothing to wait for.
        let _ = acceptor.join();
        self.shared.wait_until_none(patience);
        let connections = self.shared.connections();
        let cut = connections.open.len();
        for open in connections.open.values() {
            open.end();
        }
        drop(connections);
        self.shared.wait_until_none(Duration::from_secs(5));
        cut
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

impl Open {
    fn end(&self) {
        // One that has ended already cannot be ended.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        // What a thread that panicked left is whole: it is changed in single steps.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn wait_until_none(&self, patience: Duration) {
        let connections = self.connections();
        drop(
            self.changed
                .wait_timeout_while(connections, patience, |connections| !connections.open.is_empty()),
        );
    }

    /// Waits until there may be one more connection; returns whether there may.
    fn wait_for_room(&self) -> bool {
        let mut connections = self.connections();
        while connections.open.len() >= self.options.max_connections && !self.is_stopping() {
            let idle = connections.open.values().filter(|open| open.idle_since.is_some());
            if let Some(open) = idle.min_by_key(|open| open.idle_since) {
                open.end();
            }
            connections = self
                .changed
                .wait_timeout(connections, Duration::from_secs(1))
                .map_or_else(|poisoned| poisoned.into_inner().0, |(connections, _)| connections);
        }
        !self.is_stopping()
    }

    /// Notes that a connection waits for a request, or no longer does; returns whether it may go on.
    fn note(&self, id: u64, idle: bool) -> bool {
        let mut connections = self.connections();
        if let Some(open) = connections.open.get_mut(&id) {
            open.idle_since = idle.then(Instant::now);
        }
        !self.is_stopping()
    }
}

fn accept_all(shared: &Arc<Shared>, listener: &TcpListener, woken: &UnixStream) {
    loop {
        let mut ready = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(woken, PollFlags::IN),
        ];
        // An interruption is found out by accepting, which then finds nobody.
        let _ = poll(&mut ready, None);
        if !shared.wait_for_room() {
            return;
        }
        match listener.accept() {
            // No thread, no connection: whoever asked may try again.
            Ok((stream, peer)) => drop(start_connection(shared, stream, peer)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            // No descriptors, most likely; some connection will end.
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn start_connection(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let id = {
        let mut connections = shared.connections();
        let id = connections.total;
        connections.total += 1;
        connections.open.insert(
            id,
            Open {
                stream: stream.try_clone()?,
                idle_since: Some(Instant::now()),
            },
        );
        id
    };
    let guard = Guard {
        shared: Arc::clone(shared),
        id,
    };
    thread::Builder::new().name(format!("http {id}")).spawn(move || {
        // A connection that breaks concerns nobody but its client.
        let _ = converse(stream, peer, guard);
    })?;
    Ok(())
}

/// Strikes a connection off when it ends, however it does.
struct Guard {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.connections().open.remove(&self.id);
        self.shared.changed.notify_all();
    }
}

fn converse(stream: TcpStream, peer: SocketAddr, guard: Guard) -> io::Result<()> {
    let shared = &guard.shared;
    let options = &shared.options;
    let times = Times {
        idle: options.idle_timeout,
        head: options.head_timeout,
        piece: options.piece_timeout,
    };
    let mut wire = Wire::new(stream, times)?;
    while shared.note(guard.id, true) {
        let request = match wire.read_request() {
            Ok(Some(request)) => request,
            Ok(None) => break,
            Err(refused) => {
                let sent = wire.refuse(refused);
                options.observer.tell(&entry(peer, None, &wire, sent.is_ok()));
                sent?;
                return wire.close();
            }
        };
        let keep = shared.note(guard.id, false);
        let after = shared.handler.handle(&request, &mut wire, keep);
        options
            .observer
            .tell(&entry(peer, Some(&request), &wire, after.is_ok()));
        match after? {
            After::Keep => {}
            After::Close => return wire.close(),
            After::Reset => {
                set_socket_linger(wire.stream(), Some(Duration::ZERO))?;
                // The list has a descriptor of the same connection; the last one to be closed resets it.
                drop(guard);
                return Ok(());
            }
        }
    }
    Ok(())
}

fn entry<'a>(peer: SocketAddr, request: Option<&'a Request>, wire: &Wire, complete: bool) -> LogEntry<'a> {
    LogEntry {
        peer,
        request,
        status: wire.status.load(Ordering::SeqCst),
        bytes: wire.sent.load(Ordering::SeqCst),
        complete,
    }
}
