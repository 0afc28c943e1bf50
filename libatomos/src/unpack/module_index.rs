//! The files in which `depmod` tells `modprobe` where modules are.
//!
//! Of the files `modules.*` beside a kernel's modules, three name files: `modules.dep`, `modules.dep.bin`, and on some
//! distributions `modules.order`. The others name modules, which keep their names. So when `a.ko.xz` becomes
//! `a.ko`, those three have to follow, and nothing else. The text files are rewritten path by path. The binary one is a
//! trie, which `modprobe` reads and believes over the text:
//!
//! ```text
//! file    magic b0 07 f4 57 · version 00 02 00 01 · reference to the root · nodes, without gaps
//! node    [prefix, ends with 0] [first byte, last byte, a reference for each between them] [count, values]
//! value   priority · bytes, end with 0
//! ```
//!
//! Numbers are 32 bits, most significant byte first. A reference is an offset in 28 bits; the four above say which of
//! the three parts the node has: 8 a prefix, 4 values, 2 children. Keys are names of modules, and a value is the line of
//! `modules.dep`. Keys stay, so the shape of the trie stays: nodes are read in the order in which they lie, get their
//! new values, and are written in that order. The result is, byte for byte, what `depmod` makes of the unpacked tree;
//! a test with a distribution's kernel holds it to that.

/// What no index exceeds. Debian's are below one megabyte.
pub(crate) const MAX_INDEX: usize = 64 * 1024 * 1024;

/// Index files that name files, as text.
pub(crate) const TEXT: [&str; 2] = ["modules.dep", "modules.order"];

/// The one that names files, as a trie.
pub(crate) const BINARY: &str = "modules.dep.bin";

/// Why bytes are no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not as depmod writes it: {0}")]
pub struct NoIndex(&'static str);

const MAGIC: u32 = 0xb007_f457;
const VERSION: u32 = 0x0002_0001;

const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;
const OFFSET: u32 = 0x0fff_ffff;

/// Magic, version, reference to the root.
const HEADER: usize = 12;

struct Node<'a> {
    /// Where it lay, with what it has.
    reference: u32,
    prefix: Option<&'a [u8]>,
    /// The first byte, and a reference for each from it on; 0 for none.
    children: Option<(u8, Vec<u32>)>,
    values: Option<Vec<(u32, &'a [u8])>>,
    end: usize,
}

/// Its priority among the values of a key, and its bytes.
type Value = (u32, Vec<u8>);

/// Writes a text index anew; `rename` has the new name of a path that changes.
pub(crate) fn rewrite_text<'p>(text: &[u8], rename: impl Fn(&[u8]) -> Option<&'p [u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let ends_path = |byte: &u8| matches!(byte, b' ' | b':' | b'\n');
    for part in text.split_inclusive(ends_path) {
        let (path, end) = match part.split_last() {
            Some((last, path)) if ends_path(last) => (path, &part[path.len()..]),
            _ => (part, &[][..]),
        };
        out.extend_from_slice(rename(path).unwrap_or(path));
        out.extend_from_slice(end);
    }
    out
}

/// Writes a binary index anew; `rename` has the new name of a path that changes.
pub(crate) fn rewrite_binary<'p>(
    bytes: &[u8],
    rename: impl Fn(&[u8]) -> Option<&'p [u8]>,
) -> Result<Vec<u8>, NoIndex> {
    let (root, nodes) = read(bytes)?;
    let nodes: Vec<(Node<'_>, Vec<Value>)> = nodes
        .into_iter()
        .map(|node| {
            let values = node.values.iter().flatten();
            let values = values
                .map(|(priority, value)| (*priority, rewrite_text(value, &rename)))
                .collect();
            (node, values)
        })
        .collect();
    // Where each node will lie is known before any is written: references have a fixed size.
    let mut places = Vec::with_capacity(nodes.len());
    let mut at = HEADER;
    for (node, values) in &nodes {
        places.push((node.reference, at));
        at += size(node, values);
    }
    let moved = |reference: u32| -> Result<u32, NoIndex> {
        let found = places
            .binary_search_by_key(&(reference & OFFSET), |place| place.0 & OFFSET)
            .map_err(|_| NoIndex("a reference leads nowhere"))?;
        let offset = u32::try_from(places[found].1).ok().filter(|at| at & !OFFSET == 0);
        Ok(offset.ok_or(NoIndex("it is too large"))? | (reference & !OFFSET))
    };
    let mut out = Vec::with_capacity(at);
    for number in [MAGIC, VERSION, moved(root)?] {
        put(&mut out, number);
    }
    for (node, values) in &nodes {
        if let Some(prefix) = node.prefix {
            out.extend_from_slice(prefix);
            out.push(0);
        }
        if let Some((first, children)) = &node.children {
            // As many as there are between two bytes.
            out.push(*first);
            out.push(*first + (children.len() - 1) as u8);
            for child in children {
                put(&mut out, if *child == 0 { 0 } else { moved(*child)? });
            }
        }
        if node.values.is_some() {
            put(&mut out, values.len() as u32);
            for (priority, value) in values {
                put(&mut out, *priority);
                out.extend_from_slice(value);
                out.push(0);
            }
        }
    }
    Ok(out)
}

#[allow(
    clippy::big_endian_bytes,
    reason = "depmod's format has the most significant byte first"
)]
fn put(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn size(node: &Node<'_>, values: &[Value]) -> usize {
    let prefix = node.prefix.map_or(0, |prefix| prefix.len() + 1);
    let children = node.children.as_ref().map_or(0, |(_, all)| 2 + 4 * all.len());
    let values: usize = values.iter().map(|(_, value)| 4 + value.len() + 1).sum();
    prefix + children + values + if node.values.is_some() { 4 } else { 0 }
}

/// Reads a whole index: the reference to its root, and its nodes in the order in which they lie. They fill the file
/// without gap or overlap, and each is referred to once, so that reading ends whatever the references say.
fn read(bytes: &[u8]) -> Result<(u32, Vec<Node<'_>>), NoIndex> {
    if bytes.len() > MAX_INDEX {
        return Err(NoIndex("it is too large"));
    }
    let mut header = Cursor { bytes, at: 0 };
    if header.number()? != MAGIC {
        return Err(NoIndex("it does not begin as one"));
    }
    if header.number()? != VERSION {
        return Err(NoIndex("its version is unknown"));
    }
    let root = header.number()?;
    let mut references = vec![root];
    let mut nodes = Vec::new();
    // More references than could be nodes are repetitions, found below; they must not be followed for ever.
    while let Some(reference) = references.pop() {
        if nodes.len() > bytes.len() / 4 {
            return Err(NoIndex("a node is referred to twice"));
        }
        let node = Node::read(bytes, reference)?;
        let children = node.children.iter().flat_map(|(_, children)| children);
        references.extend(children.copied().filter(|child| *child != 0));
        nodes.push(node);
    }
    nodes.sort_unstable_by_key(|node| node.reference & OFFSET);
    let mut end = HEADER;
    for node in &nodes {
        if (node.reference & OFFSET) as usize != end {
            return Err(NoIndex("its nodes overlap, or leave a gap"));
        }
        end = node.end;
    }
    if end != bytes.len() {
        return Err(NoIndex("there is something behind its nodes"));
    }
    Ok((root, nodes))
}

impl<'a> Node<'a> {
    fn read(bytes: &'a [u8], reference: u32) -> Result<Self, NoIndex> {
        let known = HAS_PREFIX | HAS_VALUES | HAS_CHILDREN | OFFSET;
        let at = (reference & OFFSET) as usize;
        if reference & !known != 0 || reference & !OFFSET == 0 || at < HEADER {
            return Err(NoIndex("a reference leads nowhere"));
        }
        let mut cursor = Cursor { bytes, at };
        let prefix = match reference & HAS_PREFIX {
            0 => None,
            _ => Some(cursor.string()?),
        };
        let children = match reference & HAS_CHILDREN {
            0 => None,
            _ => {
                let (first, last) = (cursor.byte()?, cursor.byte()?);
                if first > last {
                    return Err(NoIndex("a node's children are none"));
                }
                let children = (first..=last)
                    .map(|_| cursor.number())
                    .collect::<Result<_, _>>()?;
                Some((first, children))
            }
        };
        let values = match reference & HAS_VALUES {
            0 => None,
            _ => {
                let count = cursor.number()? as usize;
                if count > (bytes.len() - cursor.at) / 5 {
                    return Err(NoIndex("it ends in the middle"));
                }
                let mut values = Vec::with_capacity(count);
                for _ in 0..count {
                    values.push((cursor.number()?, cursor.string()?));
                }
                Some(values)
            }
        };
        Ok(Self {
            reference,
            prefix,
            children,
            values,
            end: cursor.at,
        })
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], NoIndex> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..len));
        self.at += len;
        taken.ok_or(NoIndex("it ends in the middle"))
    }

    fn byte(&mut self) -> Result<u8, NoIndex> {
        Ok(self.take(1)?[0])
    }

    #[allow(
        clippy::big_endian_bytes,
        reason = "depmod's format has the most significant byte first"
    )]
    fn number(&mut self) -> Result<u32, NoIndex> {
        let bytes = self.take(4)?.try_into().expect("four bytes were asked for");
        Ok(u32::from_be_bytes(bytes))
    }

    fn string(&mut self) -> Result<&'a [u8], NoIndex> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(NoIndex("it ends in the middle"))?;
        self.at += len + 1;
        Ok(&rest[..len])
    }
}

#[cfg(test)]
mod tests;
