//! Numbers in a pickle, alone and in runs.

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Bool(bool),
    Int(i64),
    Float(f64),
}

/// A run of numbers, which stays in the pickle: consecutive opcodes that push one number each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    /// Position in the pickle.
    pub start: u32,
    /// Number of numbers.
    pub count: u32,
}

/// Reads the number that the opcode at the start of `code` pushes. Returns it with the bytes that its opcode takes, or
/// `None` if the code does not start with such an opcode, is truncated, or the integer is beyond 64 bits.
pub(super) fn first(code: &[u8]) -> Option<(Number, usize)> {
    let (&opcode, rest) = code.split_first()?;
    let int = |digits: &[u8], len: usize| Some((Number::Int(integer(digits)?), len));
    match opcode {
        b'G' => Some((Number::Float(f64::from_be_bytes(*rest.first_chunk()?)), 9)),
        b'K' => Some((Number::Int(i64::from(*rest.first()?)), 2)),
        b'M' => Some((Number::Int(i64::from(u16::from_le_bytes(*rest.first_chunk()?))), 3)),
        b'J' => int(rest.get(..4)?, 5),
        0x88 | 0x89 => Some((Number::Bool(opcode == 0x88), 1)),
        0x8a => {
            let len = usize::from(*rest.first()?);
            int(rest.get(1..1 + len)?, 2 + len)
        }
        _ => None,
    }
}

/// Returns the two's complement number with these little-endian digits; `None` if they are more than eight.
pub(super) fn integer(digits: &[u8]) -> Option<i64> {
    // The most significant bit of the last byte is the sign.
    let sign = if digits.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
    let mut wide = [sign; 8];
    wide.get_mut(..digits.len())?.copy_from_slice(digits);
    Some(i64::from_le_bytes(wide))
}

/// Parses a number written as text: `I01` and `I00` are bools, `L` numbers end with an L.
pub(super) fn parse(opcode: u8, line: &str) -> Option<Number> {
    match (opcode, line) {
        (b'I', "01") => Some(Number::Bool(true)),
        (b'I', "00") => Some(Number::Bool(false)),
        (b'F', line) => line.parse().ok().map(Number::Float),
        (_, line) => line.strip_suffix('L').unwrap_or(line).parse().ok().map(Number::Int),
    }
}

impl Numbers {
    /// Returns the numbers of a run in the pickle `code`.
    pub fn read(self, code: &[u8]) -> impl Iterator<Item = Number> + '_ {
        let mut at = self.start as usize;
        (0..self.count).map_while(move |_| {
            let (number, len) = first(&code[at..])?;
            at += len;
            Some(number)
        })
    }
}
