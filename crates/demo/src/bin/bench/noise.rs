//! Bytes that cannot be compressed, always the same ones (xorshift64).

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where the next bytes come from.
pub struct Noise(u64);

impl Noise {
    /// From the beginning.
    pub const fn new() -> Self {
        Self(SEED)
    }

    /// The next ones.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend(self.0.to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
