//! JSON on stdout: the model itself, with stable names; what is absent is left out.

use std::io::{self, Write};

use serde::Serialize;

/// Writes one value, indented, and a line end.
pub fn write(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Writes one value on one line, for a program that reads on.
pub fn write_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Writes an array one element at a time, one to a line, so that a long one needs no memory.
pub struct Array<'a> {
    out: &'a mut dyn Write,
    first: bool,
}

impl<'a> Array<'a> {
    /// Begins the array.
    pub fn begin(out: &'a mut dyn Write) -> io::Result<Self> {
        out.write_all(b"[")?;
        Ok(Self { out, first: true })
    }

    /// Adds an element.
    pub fn push(&mut self, element: &impl Serialize) -> io::Result<()> {
        self.out.write_all(if self.first { b"\n" } else { b",\n" })?;
        self.first = false;
        serde_json::to_writer(&mut *self.out, element)?;
        Ok(())
    }

    /// Ends the array.
    pub fn end(self) -> io::Result<()> {
        self.out.write_all(if self.first { b"]\n" } else { b"\n]\n" })
    }
}

/// A name of any bytes. JSON has no such thing: `path` is the text, and `path-hex` the bytes where they are not UTF-8.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PathModel {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

impl PathModel {
    /// Takes the bytes of a path.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(path) => Self {
                path: path.to_owned(),
                path_hex: None,
            },
            Err(_) => Self {
                path: String::from_utf8_lossy(bytes).into_owned(),
                path_hex: Some(libatomos::digest::hex(bytes)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_json_however_many_elements_it_has() {
        for count in [0, 1, 3] {
            let mut bytes = Vec::new();
            let mut array = Array::begin(&mut bytes).unwrap();
            for number in 0..count {
                array.push(&number).unwrap();
            }
            array.end().unwrap();
            let read: Vec<usize> = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(read, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_kept_in_hex() {
        let text = serde_json::to_string(&PathModel::new(b"/a\xff")).unwrap();
        assert!(text.contains("\"path-hex\":\"2f61ff\""), "{text}");
    }
}
