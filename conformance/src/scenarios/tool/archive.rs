//! ZIP archives (PKWARE's APPNOTE.TXT), written by hand, because some are hostile.

/// Compression methods: none, and Deflate.
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// The mode of a regular file, and of a symbolic link.
pub(super) const FILE: u32 = 0o100_644;
pub(super) const LINK: u32 = 0o120_777;

/// An archive.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    entries: u16,
}

impl Archive {
    /// Adds a regular file.
    pub(super) fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(path, FILE, content)
    }

    /// Adds an entry of this mode.
    pub(super) fn entry(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.packed(path, mode, (STORED, content), (checksum(content.iter().copied()), content.len()))
    }

    /// Adds a file of `size` zeros, of which the archive has a thousandth.
    pub(super) fn bomb(self, path: &str, size: usize) -> Self {
        let packed = zeros(size);
        self.packed(path, FILE, (DEFLATED, &packed), (checksum(std::iter::repeat_n(0, size)), size))
    }

    fn packed(mut self, path: &str, mode: u32, (method, content): (u16, &[u8]), (sum, size): (u32, usize)) -> Self {
        let offset = length(self.bytes.len());
        // Version, flags (the name is UTF-8), method, time, date, checksum, sizes, length of the name, and of more fields.
        let mut common = Vec::new();
        for number in [20, 0x0800, method, 0, 0x21] {
            common.extend(number.to_le_bytes());
        }
        for number in [sum, length(content.len()), length(size)] {
            common.extend(number.to_le_bytes());
        }
        common.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
        common.extend(0_u16.to_le_bytes());
        self.bytes.extend(b"PK\x03\x04");
        self.bytes.extend(&common);
        self.bytes.extend(path.as_bytes());
        self.bytes.extend(content);
        // Made by Unix.
        self.directory.extend(b"PK\x01\x02\x14\x03");
        self.directory.extend(&common);
        self.directory.extend([0; 6]);
        self.directory.extend((mode << 16).to_le_bytes());
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(path.as_bytes());
        self.entries += 1;
        self
    }

    /// The whole archive.
    pub(super) fn whole(mut self) -> Vec<u8> {
        let (offset, size) = (length(self.bytes.len()), length(self.directory.len()));
        self.bytes.extend(&self.directory);
        self.bytes.extend(b"PK\x05\x06\0\0\0\0");
        for _ in 0..2 {
            self.bytes.extend(self.entries.to_le_bytes());
        }
        self.bytes.extend(size.to_le_bytes());
        self.bytes.extend(offset.to_le_bytes());
        self.bytes.extend([0; 2]);
        self.bytes
    }
}

fn length(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

/// CRC-32 (ISO 3309).
fn checksum(bytes: impl Iterator<Item = u8>) -> u32 {
    let table: Vec<u32> = (0..256_u32)
        .map(|byte| (0..8).fold(byte, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }))
        .collect();
    let step = |crc: u32, byte: u8| table[((crc ^ u32::from(byte)) & 0xff) as usize] ^ (crc >> 8);
    !bytes.fold(u32::MAX, step)
}

/// Zeros, deflated with the fixed codes (RFC 1951, section 3.2.6): one zero, then copies of it, 258 at a time, then single ones.
fn zeros(size: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.code(0b1_10, 3);
    let (copies, rest) = ((size - 1) / 258, (size - 1) % 258);
    for _ in 0..=rest {
        bits.code(0b0011_0000, 8);
    }
    for _ in 0..copies {
        bits.code(0b1100_0101, 8);
        bits.code(0, 5);
    }
    bits.code(0, 7);
    bits.bytes
}

#[derive(Debug, Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    /// Appends a code of this length, its highest bit first.
    fn code(&mut self, code: u32, length: u32) {
        for at in (0..length).rev() {
            if self.used == 0 {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= u8::try_from((code >> at) & 1).unwrap_or(0) << self.used;
            }
            self.used = (self.used + 1) % 8;
        }
    }
}
