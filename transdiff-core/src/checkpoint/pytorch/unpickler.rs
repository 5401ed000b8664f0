//! The pickle virtual machine, protocols 2 to 5, with only the opcodes that checkpoints use.

use std::collections::HashMap;

use super::super::allocation_limit::AllocationLimit;
use super::reducers;
use super::value::{PickleValue, Result, ValueId, ValueTable};

/// Number of marks that may be open at one time: containers that are being filled.
const MAX_MARKS: usize = 1 << 8;
/// Bytes per memo entry, in a hash table that may be half empty.
const MEMO_ENTRY_BYTES: usize = 24;

const STACK_UNDERFLOW: &str = "stack underflow";

/// Runs a pickle. Returns the values that it built, and the index of its result.
pub(super) fn unpickle(pickle: &[u8], limit: AllocationLimit) -> Result<(ValueTable<'_>, ValueId)> {
    let mut unpickler = Unpickler {
        code: pickle,
        values: ValueTable::new(limit),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let at = pickle.len() - unpickler.code.len();
        let executed = unpickler.byte().and_then(|opcode| unpickler.execute(opcode));
        match executed.map_err(|message| format!("byte {at}: {message}"))? {
            Some(result) if unpickler.code.is_empty() => return Ok((unpickler.values, result)),
            Some(_) => return Err(format!("{} bytes after the end of the pickle", unpickler.code.len())),
            None => {}
        }
    }
}

struct Unpickler<'p> {
    /// Code that has not been executed yet.
    code: &'p [u8],
    values: ValueTable<'p>,
    stack: Vec<ValueId>,
    /// Height of the stack at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, ValueId>,
}

impl<'p> Unpickler<'p> {
    /// Executes one opcode. Returns the result of the pickle if the opcode was the last.
    fn execute(&mut self, opcode: u8) -> Result<Option<ValueId>> {
        match opcode {
            b'.' => return self.result().map(Some),
            0x80 => self.protocol()?,
            0x95 => drop(self.number::<8>()?), // FRAME: a hint for buffering
            b'(' => self.mark()?,
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'2' => self.push(*self.stack.last().ok_or(STACK_UNDERFLOW)?)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo_opcode(opcode)?,
            b'N' => self.push_new(PickleValue::None)?,
            0x88 | 0x89 => self.push_new(PickleValue::Bool(opcode == 0x88))?,
            b'K' | b'M' | b'J' | 0x8a | 0x8b => self.integer(opcode)?,
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push_new(PickleValue::Float(value))?;
            }
            b'X' | 0x8c | 0x8d | b'U' | b'T' => self.string(opcode)?,
            b'B' | b'C' | 0x8e | 0x96 => self.bytes(opcode)?,
            b')' | b'\x85' | b'\x86' | b'\x87' | b't' => self.tuple(opcode)?,
            b']' | 0x8f => self.push_new(PickleValue::List(Vec::new()))?,
            b'}' => self.push_new(PickleValue::Dict(Vec::new()))?,
            b'l' | 0x91 | b'd' => self.container(opcode)?,
            b'a' | b'e' | 0x90 => self.append(opcode)?,
            b's' | b'u' => self.set_items(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'R' | 0x81 | 0x92 => self.call(opcode)?,
            b'b' => self.build()?,
            b'Q' => {
                let description = self.pop()?;
                let storage = reducers::storage(&mut self.values, description)?;
                self.push(storage)?;
            }
            other => return Err(format!("unsupported opcode 0x{other:02x}: no checkpoint uses it")),
        }
        Ok(None)
    }

    fn result(&mut self) -> Result<ValueId> {
        match (self.stack.as_slice(), self.marks.as_slice()) {
            (&[result], []) => Ok(result),
            (stack, _) => Err(format!("expected one value on the stack at the end, got {}", stack.len())),
        }
    }

    fn protocol(&mut self) -> Result<()> {
        match self.byte()? {
            2..=5 => Ok(()),
            other => Err(format!("expected protocol 2 to 5, got protocol {other}")),
        }
    }

    fn memo_opcode(&mut self, opcode: u8) -> Result<()> {
        let key = match opcode {
            b'q' | b'h' => self.number::<1>()? as u32,
            b'r' | b'j' => self.number::<4>()? as u32,
            _ => self.memo.len() as u32,
        };
        if matches!(opcode, b'h' | b'j') {
            let id = *self.memo.get(&key).ok_or_else(|| format!("no memo entry {key}"))?;
            return self.push(id);
        }
        self.values.limit.reserve_bytes(MEMO_ENTRY_BYTES)?;
        let id = *self.stack.last().ok_or(STACK_UNDERFLOW)?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn integer(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'K' => self.number::<1>()? as i64,
            b'M' => self.number::<2>()? as i64,
            b'J' => i64::from(i32::from_le_bytes(self.array()?)),
            _ => {
                let n = if opcode == 0x8a { self.number::<1>()? } else { self.number::<4>()? };
                let digits = self.take(n)?;
                if digits.len() > 8 {
                    return self.push_new(PickleValue::Opaque("an integer beyond 64 bits"));
                }
                // The most significant bit of the last byte is the sign.
                let sign = if digits.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
                let mut wide = [sign; 8];
                wide[..digits.len()].copy_from_slice(digits);
                i64::from_le_bytes(wide)
            }
        };
        self.push_new(PickleValue::Int(value))
    }

    fn string(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            0x8c | b'U' => self.number::<1>()?,
            0x8d => self.number::<8>()?,
            _ => self.number::<4>()?,
        };
        // Python strings may contain unpaired surrogates, and those of older protocols arbitrary bytes.
        let text = std::str::from_utf8(self.take(len)?);
        self.push_new(text.map_or(PickleValue::Opaque("a string that is not UTF-8"), PickleValue::Text))
    }

    fn bytes(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            b'C' => self.number::<1>()?,
            b'B' => self.number::<4>()?,
            _ => self.number::<8>()?,
        };
        self.take(len)?;
        self.push_new(PickleValue::Opaque("bytes"))
    }

    fn tuple(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b')' => Vec::new(),
            b't' => self.since_mark()?,
            n => {
                let n = usize::from(n - 0x84);
                let at = self.stack.len().checked_sub(n).filter(|&at| at >= self.floor());
                self.stack.split_off(at.ok_or("too few values on the stack for a tuple")?)
            }
        };
        self.values.reserve_items(items.len())?;
        self.push_new(PickleValue::Tuple(items))
    }

    /// Builds a container of the items above the mark.
    fn container(&mut self, opcode: u8) -> Result<()> {
        let items = self.since_mark()?;
        self.values.reserve_items(items.len())?;
        self.push_new(if opcode == b'd' {
            PickleValue::Dict(pairs(&items)?)
        } else {
            PickleValue::List(items)
        })
    }

    fn append(&mut self, opcode: u8) -> Result<()> {
        let new = if opcode == b'a' { vec![self.pop()?] } else { self.since_mark()? };
        self.values.reserve_items(new.len())?;
        match self.values.get_mut(self.top()?) {
            PickleValue::List(items) => items.extend(new),
            PickleValue::Instance { .. } => {} // not built, so its items are not needed
            other => return Err(format!("append: expected a list, got {other}")),
        }
        Ok(())
    }

    fn set_items(&mut self, opcode: u8) -> Result<()> {
        let new = if opcode == b's' {
            let (value, key) = (self.pop()?, self.pop()?);
            vec![key, value]
        } else {
            self.since_mark()?
        };
        self.values.reserve_items(new.len())?;
        match self.values.get_mut(self.top()?) {
            PickleValue::Dict(items) => items.extend(pairs(&new)?),
            PickleValue::Instance { .. } => {}
            other => return Err(format!("set item: expected a dictionary, got {other}")),
        }
        Ok(())
    }

    fn global(&mut self, opcode: u8) -> Result<()> {
        let (module, name) = if opcode == b'c' {
            let (module, name) = (self.line()?, self.line()?);
            (self.values.add(PickleValue::Text(module))?, self.values.add(PickleValue::Text(name))?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            self.values.text(module).and(self.values.text(name))?;
            (module, name)
        };
        self.push_new(PickleValue::Global { module, name })
    }

    fn call(&mut self, opcode: u8) -> Result<()> {
        // NEWOBJ_EX has keyword arguments too; no reducer takes any.
        let keywords = if opcode == 0x92 { Some(self.pop()?) } else { None };
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let result = match keywords {
            Some(_) => self.values.add(PickleValue::Instance { class: callee, state: None })?,
            None => reducers::reduce(&mut self.values, callee, arguments)?,
        };
        self.push(result)
    }

    /// Sets the state of an instance. That of a dictionary or a tensor is not needed.
    fn build(&mut self) -> Result<()> {
        let new = self.pop()?;
        match self.values.get_mut(self.top()?) {
            PickleValue::Instance { state, .. } => *state = Some(new),
            PickleValue::Dict(_) | PickleValue::Tensor(_) => {}
            other => return Err(format!("build: expected an instance, got {other}")),
        }
        Ok(())
    }

    fn push_new(&mut self, value: PickleValue<'p>) -> Result<()> {
        let id = self.values.add(value)?;
        self.push(id)
    }

    fn push(&mut self, id: ValueId) -> Result<()> {
        if self.stack.len() == self.stack.capacity() {
            self.values.limit.reserve::<ValueId>(self.stack.len())?;
        }
        self.stack.push(id);
        Ok(())
    }

    /// Height of the stack at the innermost mark; values below it are out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<ValueId> {
        if self.stack.len() <= self.floor() {
            return Err(STACK_UNDERFLOW.into());
        }
        Ok(self.stack.pop().expect("the stack is not empty"))
    }

    fn top(&self) -> Result<ValueId> {
        if self.stack.len() <= self.floor() {
            return Err(STACK_UNDERFLOW.into());
        }
        Ok(self.stack[self.stack.len() - 1])
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() == MAX_MARKS {
            return Err(format!("more than {MAX_MARKS} nested marks"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn since_mark(&mut self) -> Result<Vec<ValueId>> {
        let at = self.marks.pop().ok_or("no mark on the stack")?;
        Ok(self.stack.split_off(at))
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Reads a little-endian number of `N` bytes, at most eight.
    fn number<const N: usize>(&mut self) -> Result<usize> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.array::<N>()?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|e| e.to_string())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (out, rest) = self.code.split_first_chunk().ok_or("truncated")?;
        self.code = rest;
        Ok(*out)
    }

    fn take(&mut self, n: usize) -> Result<&'p [u8]> {
        let (out, rest) = self.code.split_at_checked(n).ok_or("truncated")?;
        self.code = rest;
        Ok(out)
    }

    /// Reads text up to the end of the line.
    fn line(&mut self) -> Result<&'p str> {
        let n = self.code.iter().position(|&b| b == b'\n').ok_or("truncated")?;
        let line = self.take(n)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| "a name that is not UTF-8".into())
    }
}

fn pairs(items: &[ValueId]) -> Result<Vec<(ValueId, ValueId)>> {
    match items.as_chunks() {
        (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        _ => Err("a key without a value".into()),
    }
}
