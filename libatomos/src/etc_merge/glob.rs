//! Patterns for paths within `/etc`, matched on bytes.
//!
//! `?` stands for one byte of a name, `*` for any number of them, `[a-z]` and `[!a-z]` for one of a class, `**` as a
//! whole name for any number of directories. A pattern that matches a directory matches all beneath it.

use super::path::EtcPath;

/// A pattern, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    names: Vec<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// `**`.
    Any,
    One(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    AnyByte,
    AnyBytes,
    Class { negated: bool, ranges: Vec<(u8, u8)> },
}

impl Glob {
    /// Parses a pattern, relative to `/etc`.
    pub fn new(pattern: &str) -> Result<Self, &'static str> {
        if pattern.is_empty() {
            return Err("it is empty");
        }
        if pattern.starts_with('/') {
            return Err("it is relative to /etc and does not start with a slash");
        }
        let names = pattern
            .split('/')
            .map(|name| match name {
                "" => Err("it ends with a slash or has two in a row"),
                "." | ".." => Err("a name is `.` or `..`"),
                "**" => Ok(Name::Any),
                _ => tokens(name.as_bytes()).map(Name::One),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { names })
    }

    /// Returns whether the pattern matches `path` or a directory that it is in.
    pub fn matches(&self, path: &EtcPath) -> bool {
        let names: Vec<&[u8]> = path.names().collect();
        !names.is_empty() && matches_names(&self.names, &names)
    }
}

fn matches_names(pattern: &[Name], names: &[&[u8]]) -> bool {
    match pattern.split_first() {
        // What is left of the path lies beneath what matched.
        None => true,
        Some((Name::Any, [])) => !names.is_empty(),
        Some((Name::Any, rest)) => (0..names.len()).any(|skip| matches_names(rest, &names[skip..])),
        Some((Name::One(tokens), rest)) => names
            .split_first()
            .is_some_and(|(name, names)| matches_tokens(tokens, name) && matches_names(rest, names)),
    }
}

/// Remembers the last `*` only: what an earlier one could take, the last can as well.
fn matches_tokens(tokens: &[Token], name: &[u8]) -> bool {
    let (mut token, mut byte) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let matched = match (tokens.get(token), name.get(byte)) {
            (None, None) => return true,
            (Some(Token::AnyBytes), _) => {
                star = Some((token, byte));
                token += 1;
                continue;
            }
            (Some(Token::AnyByte), Some(_)) => true,
            (Some(Token::Byte(wanted)), Some(found)) => wanted == found,
            (Some(Token::Class { negated, ranges }), Some(found)) => {
                ranges.iter().any(|(low, high)| (low..=high).contains(&found)) != *negated
            }
            _ => false,
        };
        if matched {
            token += 1;
            byte += 1;
            continue;
        }
        match &mut star {
            Some((at, from)) if *from < name.len() => {
                *from += 1;
                (token, byte) = (*at + 1, *from);
            }
            _ => return false,
        }
    }
}

fn tokens(name: &[u8]) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut rest = name;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        tokens.push(match first {
            b'?' => Token::AnyByte,
            b'*' => Token::AnyBytes,
            b'\\' => {
                let (&byte, tail) = rest.split_first().ok_or("it ends with a backslash")?;
                rest = tail;
                Token::Byte(byte)
            }
            b'[' => {
                let (class, tail) = class(rest)?;
                rest = tail;
                class
            }
            _ => Token::Byte(first),
        });
    }
    Ok(tokens)
}

/// Parses a class after its bracket; a `]` that comes first stands for itself.
fn class(bytes: &[u8]) -> Result<(Token, &[u8]), &'static str> {
    let (negated, mut rest) = match bytes {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, bytes),
    };
    let mut ranges = Vec::new();
    loop {
        match rest {
            [b']', tail @ ..] if !ranges.is_empty() => {
                return Ok((Token::Class { negated, ranges }, tail));
            }
            [low, b'-', high, tail @ ..] if *high != b']' => {
                if low > high {
                    return Err("a range in brackets ends before it begins");
                }
                ranges.push((*low, *high));
                rest = tail;
            }
            [byte, tail @ ..] => {
                ranges.push((*byte, *byte));
                rest = tail;
            }
            [] => return Err("a bracket is not closed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_a_shell_s_do() {
        for (pattern, path, matches) in [
            ("passwd", "passwd", true),
            ("passwd", "passwd-", false),
            ("passwd", "x/passwd", false),
            ("*.conf", "a.conf", true),
            ("*.conf", "d/a.conf", false),
            ("d/*", "d/a", true),
            ("d", "d/a/b", true),
            ("*/b", "a/b/c", true),
            ("**/x", "x", true),
            ("**/x", "a/b/x", true),
            ("**/x", "a/b/y", false),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("?", "a", true),
            ("?", "ab", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]x", "]x", true),
            ("[a-]", "-", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*a*b*c", "xxaxbxbxc", true),
            ("*a*b*c", "xxaxbxbxd", false),
        ] {
            let path = path.parse().unwrap();
            assert_eq!(
                Glob::new(pattern).unwrap().matches(&path),
                matches,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        let pattern = "*a".repeat(60);
        let path = "a".repeat(59).parse().unwrap();
        assert!(!Glob::new(&pattern).unwrap().matches(&path));
    }

    #[test]
    fn a_class_matches_any_byte() {
        let path = EtcPath::from_bytes(b"\xff").unwrap();
        assert!(Glob::new("[!a]").unwrap().matches(&path));
        assert!(Glob::new("?").unwrap().matches(&path));
    }
}
