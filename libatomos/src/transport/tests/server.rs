//! A server that sends what the test says, byte for byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::transport::{
    HttpOptions, HttpTransport, Request, Status, Transport, TransportError, TransportErrorKind,
};

pub(super) type Handler = dyn Fn(&mut dyn ReadWrite, &str) + Send + Sync;

pub(super) trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// Answers each request by a function of its head.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

/// Returns the head of the next request, in small letters but for the first line.
pub(super) fn read_head(stream: &mut dyn ReadWrite) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

impl Server {
    pub(super) fn start(handler: impl Fn(&mut dyn ReadWrite, &str) + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", handler)
    }

    pub(super) fn start_at(
        address: &str,
        handler: impl Fn(&mut dyn ReadWrite, &str) + Send + Sync + 'static,
    ) -> Self {
        let handler: Arc<Handler> = Arc::new(handler);
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&heads);
        let mut server = Self::listen(address, move |mut stream| {
            while let Some(head) = read_head(&mut stream) {
                seen.lock().unwrap().push(head.clone());
                handler(&mut stream, &head);
            }
        });
        server.heads = heads;
        server
    }

    /// Gives each connection to `serve`, on a thread of its own.
    pub(super) fn listen(address: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            heads: Arc::default(),
            stop: Arc::default(),
        };
        let (stop, connections) = (Arc::clone(&server.stop), Arc::clone(&server.connections));
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                connections.fetch_add(1, Ordering::Relaxed);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream.unwrap()));
            }
        });
        server
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

pub(super) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// A server that says the same to everybody.
pub(super) fn says(text: impl Into<String>) -> Server {
    let text = text.into();
    Server::start(move |stream, _| {
        let _ = stream.write_all(text.as_bytes());
    })
}

/// Waits until the other side hangs up.
pub(super) fn hang(stream: &mut dyn ReadWrite) {
    let _ = stream.read(&mut [0]);
}

pub(super) fn impatient() -> HttpOptions {
    HttpOptions {
        stall_timeout: Duration::from_millis(150),
        ..HttpOptions::default()
    }
}

pub(super) fn transport(server: &Server, options: HttpOptions) -> HttpTransport {
    HttpTransport::new(&server.url(), options).unwrap()
}

pub(super) fn read(
    transport: &HttpTransport,
    request: &Request<'_>,
) -> Result<(Status, String), TransportError> {
    let mut response = transport.get(request)?;
    let mut text = String::new();
    let fail = |error: std::io::Error| {
        TransportError::new(
            &response.url,
            TransportErrorKind::Temporary,
            format!("reading: {error}"),
        )
    };
    response.body.read_to_string(&mut text).map_err(fail)?;
    Ok((response.status, text))
}

pub(super) fn whole(transport: &HttpTransport) -> Result<String, TransportError> {
    read(transport, &Request::whole("refs/os", 10)).map(|(_, text)| text)
}

pub(super) fn range(transport: &HttpTransport) -> Result<(Status, String), TransportError> {
    read(transport, &Request::range("packs/a", 2..6, 10))
}

#[track_caller]
pub(super) fn fails<T: std::fmt::Debug>(
    result: Result<T, TransportError>,
    kind: TransportErrorKind,
    reason: &str,
) {
    let error = result.unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.to_string().contains(reason), "{error}");
}
