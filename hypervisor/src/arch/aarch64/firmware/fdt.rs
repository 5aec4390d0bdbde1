//! Flattened device trees (Devicetree Specification 0.4, chapter 5).
//!
//! A tree is gone through once, when it is opened; after that every part of it can be relied on, and what does not fit
//! reads as if it were not there.
#![forbid(unsafe_code)]

const MAGIC: u32 = 0xd00d_feed;
/// The version of the format that this is; trees say with which one they are compatible.
const VERSION: u32 = 17;
/// Bytes of the header, and of the largest tree.
const HEADER: usize = 40;
const MAX_SIZE: usize = 2 << 20;
/// Cells of an address and of a size, unless a node says otherwise for its children (2.3.5).
const CELLS: Cells = Cells { address: 2, size: 1 };

/// A number of 32 bits at offset `at`.
#[inline(never)]
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

/// The value of one or two cells.
pub fn number(cells: &[u8]) -> Option<u64> {
    let sum = cells.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    matches!(cells.len(), 4 | 8).then_some(sum)
}

/// A text up to its zero byte.
fn text(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    bytes.get(..end)
}

/// How many cells addresses and sizes have.
#[derive(Clone, Copy, Debug)]
pub struct Cells {
    /// Of an address.
    pub address: usize,
    /// Of a size.
    pub size: usize,
}

/// A part of the structure block.
enum Token<'a> {
    /// A node of this name starts.
    Begin(&'a [u8]),
    End,
    /// A property: offset of its name, and its value.
    Property(u32, &'a [u8]),
    Finish,
}

/// A tree.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    reservations: &'a [u8],
    structure: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Tree<'a> {
    /// Size that the header of a tree claims, in bytes, if it is one.
    pub fn claimed_size(head: &[u8]) -> Option<usize> {
        let size = word(head, 4)? as usize;
        (word(head, 0)? == MAGIC && (HEADER..=MAX_SIZE).contains(&size)).then_some(size)
    }

    /// Opens a tree; `None` if it is broken.
    pub fn new(bytes: &'a [u8]) -> Option<Tree<'a>> {
        let bytes = bytes.get(..Tree::claimed_size(bytes)?)?;
        let field = |at| word(bytes, at).map(|value| value as usize);
        let (version, compatible) = (word(bytes, 20)?, word(bytes, 24)?);
        if version < VERSION || compatible > VERSION {
            return None;
        }
        let tree = Tree {
            reservations: bytes.get(field(16)?..)?,
            structure: bytes.get(field(8)?..)?.get(..field(36)?)?,
            strings: bytes.get(field(12)?..)?.get(..field(32)?)?,
        };
        let (mut at, mut depth) = (0, 0u32);
        loop {
            match tree.token(&mut at)? {
                Token::Begin(_) => depth += 1,
                Token::End => depth = depth.checked_sub(1)?,
                Token::Property(..) if depth > 0 => {}
                Token::Finish if depth == 0 => return Some(tree),
                _ => return None,
            }
        }
    }

    /// The token at `at`, which then is behind it.
    fn token(&self, at: &mut usize) -> Option<Token<'a>> {
        loop {
            let kind = word(self.structure, *at)?;
            *at += 4;
            let (token, size) = match kind {
                1 => {
                    let name = text(self.structure.get(*at..)?)?;
                    (Token::Begin(name), name.len() + 1)
                }
                2 => (Token::End, 0),
                3 => {
                    let size = word(self.structure, *at)? as usize;
                    let value = self.structure.get(*at + 8..)?.get(..size)?;
                    (Token::Property(word(self.structure, *at + 4)?, value), 8 + size)
                }
                4 => continue,
                9 => (Token::Finish, 0),
                _ => return None,
            };
            *at += size.next_multiple_of(4);
            return Some(token);
        }
    }

    /// Start and size of the memory that must not be used.
    pub fn reservations(&self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let pairs = self.reservations.chunks_exact(16).map(|pair| {
            let (start, size) = pair.split_at(8);
            (number(start).unwrap_or(0), number(size).unwrap_or(0))
        });
        pairs.take_while(|&pair| pair != (0, 0))
    }

    /// The root.
    pub fn root(&self) -> Option<Node<'a>> {
        self.nodes(0, CELLS).next()
    }

    /// The nodes that begin one after the other at `at`, behind properties perhaps, up to the end of what they are in.
    fn nodes(self, mut at: usize, cells: Cells) -> impl Iterator<Item = Node<'a>> {
        core::iter::from_fn(move || {
            let name = loop {
                match self.token(&mut at)? {
                    Token::Begin(name) => break name,
                    Token::Property(..) => {}
                    Token::End | Token::Finish => return None,
                }
            };
            let node = Node { tree: self, at, name, cells };
            // To behind its end.
            let mut depth = 1;
            while depth > 0 {
                match self.token(&mut at)? {
                    Token::Begin(_) => depth += 1,
                    Token::End => depth -= 1,
                    _ => {}
                }
            }
            Some(node)
        })
    }

    /// The node at a path of names with or without their unit addresses.
    pub fn find(&self, path: &[u8]) -> Option<Node<'a>> {
        let parts = path.split(|&byte| byte == b'/').filter(|p| !p.is_empty());
        parts.fold(self.root(), |node, part| {
            node?.children().find(|child| child.name == part || child.base_name() == part)
        })
    }
}

/// A node.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    tree: Tree<'a>,
    /// Offset of what follows its name.
    at: usize,
    name: &'a [u8],
    /// The cells of its own addresses and sizes.
    pub cells: Cells,
}

impl<'a> Node<'a> {
    /// Its name without its unit address.
    pub fn base_name(&self) -> &'a [u8] {
        let end = self.name.iter().position(|&byte| byte == b'@');
        end.map_or(self.name, |end| &self.name[..end])
    }

    /// Whether both are the same node of a tree.
    pub fn is(&self, other: &Node<'_>) -> bool {
        self.at == other.at
    }

    /// The value of a property.
    pub fn property(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut at = self.at;
        while let Some(Token::Property(offset, value)) = self.tree.token(&mut at) {
            let strings = self.tree.strings.get(offset as usize..)?;
            if text(strings) == Some(name) {
                return Some(value);
            }
        }
        None
    }

    /// Whether the list `compatible` names the node a device of this type.
    pub fn is_compatible(&self, name: &[u8]) -> bool {
        self.property(b"compatible")
            .is_some_and(|list| list.split(|&byte| byte == 0).any(|entry| entry == name))
    }

    /// The cells of its children's addresses and sizes.
    pub fn children_cells(&self) -> Cells {
        let count = |name, usual| match self.property(name).and_then(|cells| word(cells, 0)) {
            // No more than PCI's addresses have, or anything after all.
            Some(count) => count.min(4) as usize,
            None => usual,
        };
        Cells {
            address: count(b"#address-cells", CELLS.address),
            size: count(b"#size-cells", CELLS.size),
        }
    }

    /// Its children.
    pub fn children(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        self.tree.nodes(self.at, self.children_cells())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: u32 = 1;
    const END: u32 = 2;
    const PROPERTY: u32 = 3;
    const NOP: u32 = 4;
    const FINISH: u32 = 9;
    /// Name of no bytes, and "ab".
    const EMPTY: u32 = 0;
    const AB: u32 = 0x6162_0000;

    /// A tree of this structure block, whose properties are called "p" (0) and "#size-cells" (2).
    fn tree(structure: &[u32]) -> Vec<u8> {
        let strings = b"p\0#size-cells\0";
        let size = (structure.len() * 4) as u32;
        let (at, end) = (56, 56 + size);
        let header = [MAGIC, end + 14, at, end, 40, 17, 16, 0, 14, size];
        let reservations = [0; 4];
        let words = header.iter().chain(&reservations).chain(structure);
        let mut bytes: Vec<u8> = words.flat_map(|word| word.to_be_bytes()).collect();
        bytes.extend_from_slice(strings);
        bytes
    }

    #[test]
    fn nodes_and_properties() {
        let bytes = tree(&[
            NOP, BEGIN, EMPTY, NOP, PROPERTY, 4, 2, 3, NOP, PROPERTY, 2, 0, AB, BEGIN, AB, BEGIN,
            AB, END, NOP, END, BEGIN, AB, PROPERTY, 0, 0, END, END, FINISH,
        ]);
        let tree = Tree::new(&bytes).unwrap();
        assert_eq!(tree.reservations().count(), 0);
        let root = tree.root().unwrap();
        assert_eq!(root.property(b"p"), Some(&b"ab"[..]));
        assert_eq!(root.property(b"q"), None);
        let children: Vec<_> = root.children().collect();
        assert_eq!(children.len(), 2);
        assert_eq!((children[0].cells.address, children[0].cells.size), (2, 3));
        // A property of a node, not of what follows or is below.
        assert_eq!(children[0].property(b"p"), None);
        assert_eq!(children[1].property(b"p"), Some(&[][..]));
        assert!(tree.find(b"/ab/ab").is_some() && tree.find(b"/ab/ab/ab").is_none());
    }

    #[test]
    fn broken_structures() {
        for structure in [
            &[][..],
            &[BEGIN, EMPTY],
            &[BEGIN, EMPTY, FINISH],
            &[END, BEGIN, EMPTY, FINISH],
            &[BEGIN, EMPTY, END],
            &[BEGIN, EMPTY, END, 5, FINISH],
            &[PROPERTY, 0, 0, BEGIN, EMPTY, END, FINISH],
            &[BEGIN, EMPTY, PROPERTY, 9, 0, END, FINISH],
            &[BEGIN, u32::MAX],
        ] {
            assert!(Tree::new(&tree(structure)).is_none(), "{structure:?}");
        }
        let good = tree(&[BEGIN, EMPTY, END, FINISH]);
        assert!(Tree::new(&good).is_some());
        assert!(Tree::new(&good[..good.len() - 1]).is_none());
        // Versions that are not this one.
        for (at, version) in [(23, 16), (27, 18)] {
            let mut other = good.clone();
            other[at] = version;
            assert!(Tree::new(&other).is_none());
        }
    }
}
