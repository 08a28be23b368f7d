//! All tokens that a text begins with, found in one walk.
//!
//! Nodes lie level by level, so that the children of one are neighbours, in order of their byte; a
//! step is a binary search among them.

use super::vocab::NONE;

struct Node {
    /// The first child.
    children: u32,
    /// How many.
    count: u16,
    /// The token that ends here, or `NONE`.
    id: u32,
}

/// Tokens by their bytes.
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// The byte that leads to each node.
    bytes: Vec<u8>,
}

impl Trie {
    /// A trie of these tokens; of several with the same bytes, the first counts, and an empty one
    /// not at all.
    pub fn new<'a>(tokens: impl Iterator<Item = (&'a [u8], u32)>) -> Trie {
        let mut keys: Vec<(&[u8], u32)> = tokens.filter(|(key, _)| !key.is_empty()).collect();
        keys.sort_by_key(|&(key, _)| key); // stable
        let mut trie =
            Trie { nodes: vec![Node { children: 0, count: 0, id: NONE }], bytes: vec![0] };
        // The keys below each node, and how much of them leads there.
        let mut level = vec![(0, 0..keys.len())];
        let mut depth = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for (node, range) in level {
                let children = trie.nodes.len() as u32;
                let mut at = range.start;
                // A key that ends here is the first of its range.
                while at < range.end && keys[at].0.len() == depth {
                    if trie.nodes[node].id == NONE {
                        trie.nodes[node].id = keys[at].1;
                    }
                    at += 1;
                }
                while at < range.end {
                    let byte = keys[at].0[depth];
                    let n = keys[at..range.end].partition_point(|(key, _)| key[depth] == byte);
                    next.push((trie.nodes.len(), at..at + n));
                    trie.nodes.push(Node { children: 0, count: 0, id: NONE });
                    trie.bytes.push(byte);
                    at += n;
                }
                trie.nodes[node].children = children;
                trie.nodes[node].count = (trie.nodes.len() as u32 - children) as u16;
            }
            level = next;
            depth += 1;
        }
        trie
    }

    /// Whether a token begins with this byte.
    pub fn begins(&self, byte: u8) -> bool {
        let root = &self.nodes[0];
        let first = root.children as usize;
        self.bytes[first..first + usize::from(root.count)].binary_search(&byte).is_ok()
    }

    /// The tokens that `text` begins with, shortest first: length and id.
    pub fn prefixes<'t>(&'t self, text: &'t [u8]) -> impl Iterator<Item = (usize, u32)> + 't {
        let mut node = &self.nodes[0];
        let steps = text.iter().enumerate().map_while(move |(i, &byte)| {
            let first = node.children as usize;
            let among = &self.bytes[first..first + usize::from(node.count)];
            node = &self.nodes[first + among.binary_search(&byte).ok()?];
            Some((i + 1, node.id))
        });
        steps.filter(|&(_, id)| id != NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_list_finds(
            keys in prop::collection::vec("[abé]{0,4}", 0..30),
            text in "[abé]{0,8}",
        ) {
            let trie = Trie::new(keys.iter().map(|k| k.as_bytes()).zip(0..));
            let text = text.as_bytes();
            let mut want: Vec<(usize, u32)> = Vec::new();
            for n in 1..=text.len() {
                let at = keys.iter().position(|k| k.as_bytes() == &text[..n]);
                want.extend(at.map(|i| (n, i as u32)));
            }
            prop_assert_eq!(trie.prefixes(text).collect::<Vec<_>>(), want);
        }
    }
}
