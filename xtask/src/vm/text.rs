//! What comes over a console and a port, made readable.

/// A console's bytes without what moves the cursor and changes colours.
pub fn plain_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut chars = String::from_utf8_lossy(bytes)
        .chars()
        .collect::<Vec<_>>()
        .into_iter()
        .peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next_if_eq(&'[').is_some() {
                    // Parameters, then one letter that ends the sequence.
                    while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
                } else if chars.next().is_some_and(|c| c == '(') {
                    // The choice of a character set.
                    chars.next();
                }
            }
            '\n' | '\t' => text.push(c),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64, which survives a line of a shell's `read`.
pub fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let value = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        for index in 0..4 {
            let six = (value >> (18 - 6 * index)) & 63;
            text.push(if index <= chunk.len() {
                char::from(ALPHABET[six as usize])
            } else {
                '='
            });
        }
    }
    text
}

/// The bytes that a text in base64 stands for; `None` if it is none.
pub fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut value, mut bits) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let six = ALPHABET.iter().position(|letter| *letter == byte)?;
        value = value << 6 | u32::try_from(six).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(value >> bits & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_what_everybody_else_writes() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64_encode(plain.as_bytes()), encoded);
            assert_eq!(base64_decode(encoded).unwrap(), plain.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(base64_decode(&base64_encode(&all)).unwrap(), all);
        assert_eq!(base64_decode("a*b"), None);
    }

    #[test]
    fn a_console_is_read_without_its_cursor() {
        let bytes = b"\x1b[H\x1b[J\x1b[1;31mFAILED\x1b[0m unit\r\n\x1b(Bnext\x07";
        assert_eq!(plain_text(bytes), "FAILED unit\nnext");
        assert_eq!(plain_text(b"\x1b["), "");
        assert_eq!(plain_text(b"\xff\x1b"), "\u{fffd}");
    }
}
