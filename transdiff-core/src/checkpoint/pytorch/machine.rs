//! The stack machine of pickles, protocols 2 to 5: the opcodes that checkpoints use, and no other.

use std::collections::HashMap;

use super::super::budget::Budget;
use super::known;
use super::object::{Id, Object, Objects, Result};

/// Containers that are being filled at one time.
const MAX_MARKS: usize = 1 << 8;
/// Bytes of a remembered value, in a table that is at most half full.
const MEMO_BYTES: usize = 24;

/// Runs a pickle. Returns what it built, and the number of its result.
pub(super) fn run(pickle: &[u8], budget: Budget) -> Result<(Objects<'_>, Id)> {
    let mut machine = Machine {
        code: pickle,
        objects: Objects::new(budget),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let at = pickle.len() - machine.code.len();
        let step = machine.byte().and_then(|opcode| machine.step(opcode));
        match step.map_err(|message| format!("byte {at}: {message}"))? {
            Some(result) if machine.code.is_empty() => return Ok((machine.objects, result)),
            Some(_) => return Err(format!("{} bytes after its end", machine.code.len())),
            None => {}
        }
    }
}

struct Machine<'p> {
    /// What is still to be run.
    code: &'p [u8],
    objects: Objects<'p>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'p> Machine<'p> {
    /// One opcode; the result if it was the last.
    fn step(&mut self, opcode: u8) -> Result<Option<Id>> {
        match opcode {
            b'.' => return self.result().map(Some),
            0x80 => self.protocol()?,
            0x95 => drop(self.number::<8>()?), // FRAME: a hint for reading ahead
            b'(' => self.mark()?,
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'2' => self.push(*self.stack.last().ok_or("an empty stack")?)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember(opcode)?,
            b'N' => self.make(Object::None)?,
            0x88 | 0x89 => self.make(Object::Bool(opcode == 0x88))?,
            b'K' | b'M' | b'J' | 0x8a | 0x8b => self.integer(opcode)?,
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.make(Object::Float(value))?;
            }
            b'X' | 0x8c | 0x8d | b'U' | b'T' => self.string(opcode)?,
            b'B' | b'C' | 0x8e | 0x96 => self.bytes(opcode)?,
            b')' | b'\x85' | b'\x86' | b'\x87' | b't' => self.tuple(opcode)?,
            b']' | 0x8f => self.make(Object::List(Vec::new()))?,
            b'}' => self.make(Object::Dict(Vec::new()))?,
            b'l' | 0x91 | b'd' => self.filled(opcode)?,
            b'a' | b'e' | 0x90 => self.append(opcode)?,
            b's' | b'u' => self.set_items(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'R' | 0x81 | 0x92 => self.call(opcode)?,
            b'b' => self.build()?,
            b'Q' => {
                let described = self.pop()?;
                let storage = known::storage(&mut self.objects, described)?;
                self.push(storage)?;
            }
            other => return Err(format!("opcode 0x{other:02x}, which no checkpoint uses")),
        }
        Ok(None)
    }

    fn result(&mut self) -> Result<Id> {
        match (self.stack.as_slice(), self.marks.as_slice()) {
            (&[result], []) => Ok(result),
            (stack, _) => Err(format!("{} values at the end, not one", stack.len())),
        }
    }

    fn protocol(&mut self) -> Result<()> {
        match self.byte()? {
            2..=5 => Ok(()),
            other => Err(format!("protocol {other}; 2 to 5 are read")),
        }
    }

    fn remember(&mut self, opcode: u8) -> Result<()> {
        let key = match opcode {
            b'q' | b'h' => self.number::<1>()? as u32,
            b'r' | b'j' => self.number::<4>()? as u32,
            _ => self.memo.len() as u32,
        };
        if matches!(opcode, b'h' | b'j') {
            let id = *self.memo.get(&key).ok_or_else(|| format!("nothing is remembered as {key}"))?;
            return self.push(id);
        }
        self.objects.budget.take_bytes(MEMO_BYTES)?;
        let id = *self.stack.last().ok_or("an empty stack")?;
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
                    return self.make(Object::Opaque("an integer beyond 64 bits"));
                }
                // The last byte carries the sign.
                let sign = if digits.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
                let mut wide = [sign; 8];
                wide[..digits.len()].copy_from_slice(digits);
                i64::from_le_bytes(wide)
            }
        };
        self.make(Object::Int(value))
    }

    fn string(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            0x8c | b'U' => self.number::<1>()?,
            0x8d => self.number::<8>()?,
            _ => self.number::<4>()?,
        };
        // Python's strings may have halves of surrogate pairs, and its older ones any bytes.
        let text = std::str::from_utf8(self.take(len)?);
        self.make(text.map_or(Object::Opaque("a string that is not UTF-8"), Object::Text))
    }

    fn bytes(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            b'C' => self.number::<1>()?,
            b'B' => self.number::<4>()?,
            _ => self.number::<8>()?,
        };
        self.take(len)?;
        self.make(Object::Opaque("bytes"))
    }

    fn tuple(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b')' => Vec::new(),
            b't' => self.since_mark()?,
            n => {
                let n = usize::from(n - 0x84);
                let at = self.stack.len().checked_sub(n).filter(|&at| at >= self.floor());
                self.stack.split_off(at.ok_or("too few values for a tuple")?)
            }
        };
        self.objects.take_items(items.len())?;
        self.make(Object::Tuple(items))
    }

    /// A container made of what follows the mark.
    fn filled(&mut self, opcode: u8) -> Result<()> {
        let items = self.since_mark()?;
        self.objects.take_items(items.len())?;
        self.make(if opcode == b'd' { Object::Dict(pairs(&items)?) } else { Object::List(items) })
    }

    fn append(&mut self, opcode: u8) -> Result<()> {
        let new = if opcode == b'a' { vec![self.pop()?] } else { self.since_mark()? };
        self.objects.take_items(new.len())?;
        match self.objects.get_mut(self.top()?) {
            Object::List(items) => items.extend(new),
            Object::Instance { .. } => {} // whatever it is, it was not made
            other => return Err(format!("items for {other}")),
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
        self.objects.take_items(new.len())?;
        match self.objects.get_mut(self.top()?) {
            Object::Dict(items) => items.extend(pairs(&new)?),
            Object::Instance { .. } => {}
            other => return Err(format!("keys and values for {other}")),
        }
        Ok(())
    }

    fn global(&mut self, opcode: u8) -> Result<()> {
        let (module, name) = if opcode == b'c' {
            let (module, name) = (self.line()?, self.line()?);
            (self.objects.add(Object::Text(module))?, self.objects.add(Object::Text(name))?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            self.objects.text(module).and(self.objects.text(name))?;
            (module, name)
        };
        self.make(Object::Global { module, name })
    }

    fn call(&mut self, opcode: u8) -> Result<()> {
        // NEWOBJ_EX has keywords after the arguments; no class with keywords is known.
        let named = if opcode == 0x92 { Some(self.pop()?) } else { None };
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let made = match named {
            Some(_) => self.objects.add(Object::Instance { class: callee, state: None })?,
            None => known::call(&mut self.objects, callee, arguments)?,
        };
        self.push(made)
    }

    /// The state of an instance. That of a dictionary or a tensor is Python's own business.
    fn build(&mut self) -> Result<()> {
        let new = self.pop()?;
        match self.objects.get_mut(self.top()?) {
            Object::Instance { state, .. } => *state = Some(new),
            Object::Dict(_) | Object::Tensor(_) => {}
            other => return Err(format!("a state for {other}")),
        }
        Ok(())
    }

    fn make(&mut self, object: Object<'p>) -> Result<()> {
        let id = self.objects.add(object)?;
        self.push(id)
    }

    fn push(&mut self, id: Id) -> Result<()> {
        if self.stack.len() == self.stack.capacity() {
            self.objects.budget.take::<Id>(self.stack.len())?;
        }
        self.stack.push(id);
        Ok(())
    }

    /// The height below which the values belong to what is outside of the mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err("an empty stack".into());
        }
        Ok(self.stack.pop().expect("it is not empty"))
    }

    fn top(&self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err("an empty stack".into());
        }
        Ok(self.stack[self.stack.len() - 1])
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() == MAX_MARKS {
            return Err(format!("containers nested {MAX_MARKS} deep"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>> {
        let at = self.marks.pop().ok_or("no mark")?;
        Ok(self.stack.split_off(at))
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// A little-endian number of `N` bytes, at most eight.
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

    /// The text up to the end of the line.
    fn line(&mut self) -> Result<&'p str> {
        let n = self.code.iter().position(|&b| b == b'\n').ok_or("truncated")?;
        let line = self.take(n)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| "a name that is not UTF-8".into())
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    match items.as_chunks() {
        (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        _ => Err("a key without a value".into()),
    }
}
