//! SentencePiece's table of replacements: for each place in a text, the longest known sequence of
//! bytes there becomes another.
//!
//! The table is a double-array trie (the one of darts-clone) before the replacements, which end in
//! a zero byte each. A unit of the array holds a label, an offset to the children, whether a value
//! is among them, or a value. Units are checked as they are read: the table is the file's.

/// The table.
pub(super) struct Charsmap {
    units: Vec<u32>,
    texts: String,
}

impl Charsmap {
    /// Reads a table: the size of the array in bytes as a little-endian `u32`, the array, the
    /// texts. `None` where the sizes do not fit.
    pub fn new(blob: &[u8]) -> Option<Charsmap> {
        let (size, rest) = blob.split_first_chunk()?;
        let (array, texts) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
        let units = array.chunks_exact(4).map(|u| u32::from_le_bytes([u[0], u[1], u[2], u[3]]));
        let texts = std::str::from_utf8(texts).ok()?.to_owned();
        array.len().is_multiple_of(4).then(|| Charsmap { units: units.collect(), texts })
    }

    /// The longest sequence that `text` begins with: its length and where its replacement begins.
    fn longest(&self, text: &[u8]) -> Option<(usize, usize)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        for (i, &byte) in text.iter().enumerate() {
            at ^= u32::from(byte);
            let Some(&unit) = self.units.get(at as usize) else { break };
            // A value has the highest bit, so it is no child of any byte.
            if byte == 0 || unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            at ^= offset(unit);
            if unit >> 8 & 1 == 1
                && let Some(&value) = self.units.get(at as usize)
            {
                found = Some((i + 1, (value & !(1 << 31)) as usize));
            }
        }
        found
    }

    /// A text with everything replaced.
    pub fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let found = self.longest(rest.as_bytes());
            let replaced = found.and_then(|(n, start)| {
                // A bad index could point into a character.
                let text = self.texts.get(start..)?.split_once('\0')?.0;
                Some((rest.get(n..)?, text))
            });
            match replaced {
                Some((after, text)) => {
                    out.push_str(text);
                    rest = after;
                }
                None => {
                    out.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        out
    }
}
