//! All tokens that a text begins with, found in one walk.
//!
//! Nodes lie level by level, so that the children of one are neighbours, in order of their first
//! byte; a step is a binary search among them. A chain of nodes without a choice is one node: there
//! are at most two a token, whatever a file's tokens are.

use super::index::NONE;

/// Tokens by their bytes. Columns of one row a node, the first of which is the root.
pub(super) struct Trie {
    /// The byte that leads to the node.
    bytes: Vec<u8>,
    /// The first child; the next row's first child is where they end.
    children: Vec<u32>,
    /// The token that ends here, or `NONE`.
    ids: Vec<u32>,
    /// Where in `labels` the bytes that must follow the first end; they begin where those of the
    /// row before end.
    ends: Vec<u32>,
    labels: Vec<u8>,
}

impl Trie {
    /// A trie of these tokens, whose bytes `bytes` tells; of several with the same bytes, the lowest
    /// id counts, and an empty one not at all.
    pub fn new<'a>(tokens: impl Iterator<Item = u32>, bytes: impl Fn(u32) -> &'a [u8]) -> Trie {
        let mut keys: Vec<u32> = tokens.filter(|&id| !bytes(id).is_empty()).collect();
        keys.sort_unstable_by_key(|&id| (bytes(id), id));
        keys.dedup_by_key(|id| bytes(*id));
        let key = |at: u32| bytes(keys[at as usize]);

        // The most there can be, so that nothing grows by doubling.
        let rows = 2 * keys.len() + 2;
        let text = keys.iter().map(|&id| bytes(id).len()).sum();
        let mut trie = Trie {
            bytes: Vec::with_capacity(rows),
            children: Vec::with_capacity(rows),
            ids: Vec::with_capacity(rows),
            ends: Vec::with_capacity(rows),
            labels: Vec::with_capacity(text),
        };
        // Of each node: the bytes that lead to it and through its label, and the keys below it.
        let mut depths: Vec<u32> = Vec::with_capacity(rows);
        let mut ranges: Vec<[u32; 2]> = Vec::new();
        trie.push(0, &[]);
        depths.push(0);
        ranges.push([0, keys.len() as u32]);
        let mut node = 0;
        while node < trie.bytes.len() {
            let ([mut at, end], depth) = (ranges[node], depths[node] as usize);
            let first = trie.bytes.len() as u32;
            trie.children.push(first);
            // A key that ends here is the first of its range.
            if at < end && key(at).len() == depth {
                trie.ids[node] = keys[at as usize];
                at += 1;
            }
            while at < end {
                let byte = key(at)[depth];
                let among = &keys[at as usize..end as usize];
                let n = among.partition_point(|&id| bytes(id)[depth] == byte) as u32;
                // In order, so what the first and the last share, all do.
                let (low, high) = (&key(at)[depth + 1..], &key(at + n - 1)[depth + 1..]);
                let shared = low.iter().zip(high).take_while(|(a, b)| a == b).count();
                trie.push(byte, &low[..shared]);
                depths.push((depth + 1 + shared) as u32);
                ranges.push([at, at + n]);
                at += n;
            }
            node += 1;
        }
        trie.children.push(trie.bytes.len() as u32);
        trie
    }

    /// Appends a node without its children.
    fn push(&mut self, byte: u8, label: &[u8]) {
        self.bytes.push(byte);
        self.ids.push(NONE);
        self.labels.extend_from_slice(label);
        self.ends.push(self.labels.len() as u32);
    }

    /// The child of a node that this byte leads to.
    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let (first, end) = (self.children[node] as usize, self.children[node + 1] as usize);
        Some(first + self.bytes[first..end].binary_search(&byte).ok()?)
    }

    /// Whether a token begins with this byte.
    pub fn begins(&self, byte: u8) -> bool {
        self.child(0, byte).is_some()
    }

    /// The tokens that `text` begins with, shortest first: length and id.
    pub fn prefixes<'t>(&'t self, text: &'t [u8]) -> impl Iterator<Item = (usize, u32)> + 't {
        let (mut node, mut at) = (0, 0);
        let steps = std::iter::from_fn(move || {
            node = self.child(node, *text.get(at)?)?;
            let label = &self.labels[self.ends[node - 1] as usize..self.ends[node] as usize];
            at += 1;
            if !label.is_empty() {
                text[at..].starts_with(label).then_some(())?;
                at += label.len();
            }
            Some((at, self.ids[node]))
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
            keys in prop::collection::vec("[abé]{0,4}|[ab]{12}[ac]{0,3}", 0..30),
            cut in 0usize..30,
            text in "[abé]{0,8}",
        ) {
            let trie = Trie::new(0..keys.len() as u32, |i| keys[i as usize].as_bytes());
            prop_assert!(trie.bytes.len() <= 2 * keys.len() + 1);
            // Also a text that begins as a key does.
            let begun = keys.get(cut).map_or(String::new(), |key| format!("{key}{text}"));
            for text in [text.as_bytes(), begun.as_bytes()] {
                let mut want: Vec<(usize, u32)> = Vec::new();
                for n in 1..=text.len() {
                    let at = keys.iter().position(|k| k.as_bytes() == &text[..n]);
                    want.extend(at.map(|i| (n, i as u32)));
                }
                prop_assert_eq!(trie.prefixes(text).collect::<Vec<_>>(), want);
            }
        }
    }
}
