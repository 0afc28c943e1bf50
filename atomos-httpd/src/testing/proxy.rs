//! A line with a round trip time.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

/// Bytes that may be on their way in one direction of a connection: 25 ms at 2.5 GB/s.
const IN_FLIGHT: usize = 64 * 1024 * 1024;

const CHUNK: usize = 64 * 1024;

/// Carries TCP connections to another address, and lets every byte arrive later than it was sent.
///
/// The delay is one way: a round trip takes two of them. Making a connection costs a round trip, too, which the first
/// bytes of the client wait for. Throughput is not limited, and there is no slow start: what a client loses here is only
/// what it waits for.
#[derive(Debug)]
pub struct DelayProxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    upstream: SocketAddr,
    delay: Duration,
    stopping: AtomicBool,
    connections: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    open: Mutex<Vec<Weak<TcpStream>>>,
}

impl DelayProxy {
    /// Carries connections to `upstream`, with `delay` one way.
    ///
    /// # Panics
    ///
    /// If loopback cannot be listened at.
    #[must_use]
    pub fn start(upstream: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened at");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(State {
            upstream,
            delay,
            stopping: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.stopping.load(Ordering::SeqCst) {
                    return;
                }
                // A client whose server is gone is disconnected.
                let _ = carry(&accepting, client);
            }
        });
        Self { address, state }
    }

    /// Returns where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its address for an HTTP client, such as `http://127.0.0.1:1234`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns how many connections there were.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Returns how many bytes clients have sent.
    #[must_use]
    pub fn bytes_to_server(&self) -> u64 {
        self.state.to_server.load(Ordering::SeqCst)
    }

    /// Returns how many bytes the server has sent.
    #[must_use]
    pub fn bytes_to_client(&self) -> u64 {
        self.state.to_client.load(Ordering::SeqCst)
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        for stream in self.state.open.lock().unwrap().iter().filter_map(Weak::upgrade) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the one who accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn carry(state: &Arc<State>, client: TcpStream) -> io::Result<()> {
    state.connections.fetch_add(1, Ordering::SeqCst);
    let server = Arc::new(TcpStream::connect(state.upstream)?);
    let client = Arc::new(client);
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    {
        let mut open = state.open.lock().unwrap();
        open.retain(|stream| stream.strong_count() > 0);
        open.extend([Arc::downgrade(&client), Arc::downgrade(&server)]);
    }
    let begin = Instant::now();
    let connected = begin + 2 * state.delay;
    for (from, to, counter, earliest) in [
        (&client, &server, Counter::ToServer, connected),
        (&server, &client, Counter::ToClient, begin),
    ] {
        let line = Arc::new(Line::default());
        let (from, to) = (Arc::clone(from), Arc::clone(to));
        let state = Arc::clone(state);
        let receiving = Arc::clone(&line);
        thread::spawn(move || receive(&state, &from, &receiving, counter, earliest));
        thread::spawn(move || deliver(&to, &line));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Counter {
    ToServer,
    ToClient,
}

/// What is on its way in one direction.
#[derive(Debug, Default)]
struct Line {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<(Instant, Parcel)>,
    bytes: usize,
    /// Whoever would receive it is gone.
    cut: bool,
}

#[derive(Debug)]
enum Parcel {
    Bytes(Vec<u8>),
    End,
    Reset,
}

fn receive(state: &State, from: &TcpStream, line: &Line, counter: Counter, earliest: Instant) {
    let counter = match counter {
        Counter::ToServer => &state.to_server,
        Counter::ToClient => &state.to_client,
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        let (parcel, len) = match (&mut &*from).read(&mut buffer) {
            Ok(0) => (Parcel::End, 0),
            Ok(len) => (Parcel::Bytes(buffer[..len].to_vec()), len),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => (Parcel::Reset, 0),
        };
        counter.fetch_add(len as u64, Ordering::SeqCst);
        let due = Instant::now().max(earliest) + state.delay;
        let mut queue = line.queue.lock().unwrap();
        while queue.bytes > IN_FLIGHT && !queue.cut {
            queue = line.changed.wait(queue).unwrap();
        }
        if queue.cut {
            // Nobody takes it. The sender is told when the last of the threads has let go of its socket.
            return;
        }
        queue.bytes += len;
        queue.chunks.push_back((due, parcel));
        drop(queue);
        line.changed.notify_all();
        if len == 0 {
            return;
        }
    }
}

fn deliver(to: &TcpStream, line: &Line) {
    loop {
        let (due, parcel) = {
            let mut queue = line.queue.lock().unwrap();
            loop {
                if let Some(next) = queue.chunks.pop_front() {
                    break next;
                }
                queue = line.changed.wait(queue).unwrap();
            }
        };
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let len = match parcel {
            Parcel::Bytes(bytes) => match (&mut &*to).write_all(&bytes) {
                Ok(()) => bytes.len(),
                Err(_) => {
                    line.queue.lock().unwrap().cut = true;
                    line.changed.notify_all();
                    return;
                }
            },
            Parcel::End => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Parcel::Reset => {
                // Closing it resets it. That takes the other direction to let go of it, too, and not a word before.
                let _ = set_socket_linger(to, Some(Duration::ZERO));
                let _ = to.shutdown(Shutdown::Read);
                return;
            }
        };
        line.queue.lock().unwrap().bytes -= len;
        line.changed.notify_all();
    }
}
