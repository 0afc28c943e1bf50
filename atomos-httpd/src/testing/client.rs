//! A client that says exactly what it is told to.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    pending: Vec<u8>,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Returns the value of a header; its name is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Client {
    /// Connects. Nothing that it does afterwards takes longer than ten seconds.
    ///
    /// # Panics
    ///
    /// If there is no connection.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server takes connections");
        let patience = Some(Duration::from_secs(10));
        stream
            .set_read_timeout(patience)
            .expect("ten seconds are a timeout");
        stream
            .set_write_timeout(patience)
            .expect("ten seconds are a timeout");
        stream.set_nodelay(true).expect("TCP has the option");
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// If the server is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a request with `headers`, each a line without its end, and reads the reply.
    ///
    /// # Errors
    ///
    /// If the reply is not whole.
    pub fn request(&mut self, method: &str, target: &str, headers: &[&str]) -> io::Result<Reply> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.send(head)?;
        self.reply(method != "HEAD")
    }

    /// Sends a `GET`, and reads the reply.
    ///
    /// # Errors
    ///
    /// If the reply is not whole.
    pub fn get(&mut self, target: &str, headers: &[&str]) -> io::Result<Reply> {
        self.request("GET", target, headers)
    }

    /// Reads a reply, whose body ends by its length or with the connection.
    ///
    /// # Errors
    ///
    /// If the reply is not whole.
    pub fn reply(&mut self, has_body: bool) -> io::Result<Reply> {
        let end = loop {
            if let Some(at) = self.pending.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.more()?;
        };
        let head: Vec<u8> = self.pending.drain(..end).collect();
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("a reply without a status"))?;
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut reply = Reply {
            status,
            headers,
            body: Vec::new(),
        };
        if has_body && status != 304 {
            match reply
                .header("content-length")
                .and_then(|length| length.parse().ok())
            {
                Some(length) => {
                    while self.pending.len() < length {
                        self.more()?;
                    }
                    reply.body = self.pending.drain(..length).collect();
                }
                None => {
                    self.stream.read_to_end(&mut self.pending)?;
                    reply.body = std::mem::take(&mut self.pending);
                }
            }
        }
        Ok(reply)
    }

    /// Reads what comes next, without making sense of it. Empty at the end of the connection.
    ///
    /// # Errors
    ///
    /// If the connection is reset, or nothing comes.
    pub fn read_some(&mut self) -> io::Result<Vec<u8>> {
        if self.pending.is_empty() {
            match self.more() {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                other => other?,
            }
        }
        Ok(std::mem::take(&mut self.pending))
    }

    fn more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => {
                self.pending.extend_from_slice(&buffer[..len]);
                Ok(())
            }
        }
    }
}
