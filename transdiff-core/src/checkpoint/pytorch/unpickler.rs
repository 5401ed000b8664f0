//! The pickle virtual machine, protocols 1 to 5, with only the opcodes that checkpoints use. It builds values and calls
//! nothing.

use super::super::allocation_limit::AllocationLimit;
use super::memo::Memo;
use super::numbers::{self, Number, Numbers};
use super::value::{Call, Items, Opaque, Pairs, PickleValue, Result, Span, ValueId, ValueTable};

/// Number of marks that may be open at one time: containers that are being filled.
const MAX_MARKS: usize = 1 << 8;
/// Number of numbers in a list or tuple from which they are kept as a run.
const MIN_RUN: u32 = 16;

const STACK_UNDERFLOW: &str = "stack underflow";

/// Runs a pickle. Returns the values that it built, and the index of its result.
pub(super) fn unpickle(pickle: &[u8], limit: AllocationLimit) -> Result<(ValueTable<'_>, ValueId)> {
    let mut unpickler = Unpickler {
        pickle,
        code: pickle,
        values: ValueTable::new(pickle, limit)?,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Memo::default(),
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
    pickle: &'p [u8],
    /// Code that has not been executed yet.
    code: &'p [u8],
    values: ValueTable<'p>,
    stack: Vec<ValueId>,
    /// Height of the stack at each mark.
    marks: Vec<usize>,
    memo: Memo,
}

impl<'p> Unpickler<'p> {
    /// Executes one opcode. Returns the result of the pickle if the opcode was the last.
    fn execute(&mut self, opcode: u8) -> Result<Option<ValueId>> {
        match opcode {
            b'.' => return self.result().map(Some),
            0x80 => self.protocol()?,
            0x95 => drop(self.count::<8>()?), // FRAME: a hint for buffering
            b'(' => self.mark().and_then(|()| self.run())?,
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'2' => self.push(*self.stack.last().ok_or(STACK_UNDERFLOW)?)?,
            b'q' | b'r' | b'p' | 0x94 => self.memorize(opcode)?,
            b'h' | b'j' | b'g' => self.recall(opcode)?,
            b'N' => self.push(ValueTable::NONE)?,
            0x88 | 0x89 | b'G' | b'K' | b'M' | b'J' | 0x8a | 0x8b => self.number(opcode)?,
            b'I' | b'L' | b'F' => self.text_number(opcode)?,
            b'X' | 0x8c | 0x8d | b'U' | b'T' => self.string(opcode)?,
            b'B' | b'C' | 0x8e | 0x96 => self.bytes(opcode)?,
            b')' | b'\x85' | b'\x86' | b'\x87' | b't' => self.tuple(opcode)?,
            b']' | 0x8f => self.list(Vec::new())?,
            b'}' => self.dict(Vec::new())?,
            b'l' | 0x91 => self.since_mark().and_then(|items| self.list(items))?,
            b'd' => self.since_mark().and_then(|items| self.dict(pairs(&items)?))?,
            b'a' | b'e' | 0x90 => self.append(opcode)?,
            b's' | b'u' => self.set_items(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'R' | 0x81 | 0x92 => self.call(opcode)?,
            b'b' => self.build()?,
            b'Q' => {
                let description = self.pop()?;
                self.push_new(PickleValue::Storage(description))?;
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
            1..=5 => Ok(()),
            other => Err(format!("expected protocol 1 to 5, got protocol {other}")),
        }
    }

    fn memorize(&mut self, opcode: u8) -> Result<()> {
        let id = *self.stack.last().ok_or(STACK_UNDERFLOW)?;
        let limit = &mut self.values.limit;
        if opcode == 0x94 {
            return self.memo.push(id, limit);
        }
        let key = self.memo_key(opcode)?;
        self.memo.set(key, id, &mut self.values.limit)
    }

    fn recall(&mut self, opcode: u8) -> Result<()> {
        let key = self.memo_key(opcode)?;
        self.push(self.memo.get(key)?)
    }

    fn memo_key(&mut self, opcode: u8) -> Result<u32> {
        match opcode {
            b'q' | b'h' => Ok(self.count::<1>()? as u32),
            b'r' | b'j' => Ok(self.count::<4>()? as u32),
            _ => self.line()?.parse().map_err(|e| format!("a memo entry: {e}")),
        }
    }

    /// Pushes the run of numbers that fills a list or a tuple, and moves behind it, if one follows.
    fn run(&mut self) -> Result<()> {
        let (mut len, mut count) = (0, 0);
        while let Some((_, bytes)) = numbers::first(&self.code[len..]) {
            (len, count) = (len + bytes, count + 1);
        }
        if count < MIN_RUN || !matches!(self.code.get(len), Some(b'e' | b't' | b'l')) {
            return Ok(());
        }
        let start = self.take(len)?;
        let start = self.span(start).start;
        self.push_new(PickleValue::Numbers(Numbers { start, count }))
    }

    fn number(&mut self, opcode: u8) -> Result<()> {
        let from = &self.pickle[self.pickle.len() - self.code.len() - 1..];
        if let Some((number, len)) = numbers::first(from) {
            self.take(len - 1)?;
            return self.push_number(number);
        }
        let len = match opcode {
            0x8a => self.count::<1>()?,
            0x8b => self.count::<4>()?,
            _ => return Err("truncated".into()),
        };
        match numbers::integer(self.take(len)?) {
            Some(number) => self.push_number(Number::Int(number)),
            None => self.push_new(PickleValue::Opaque(Opaque::WideInteger)),
        }
    }

    fn text_number(&mut self, opcode: u8) -> Result<()> {
        match numbers::parse(opcode, self.line()?) {
            Some(number) => self.push_number(number),
            None if opcode == b'L' => self.push_new(PickleValue::Opaque(Opaque::WideInteger)),
            None => Err("a number that is not one".into()),
        }
    }

    fn push_number(&mut self, number: Number) -> Result<()> {
        let id = self.values.number(number)?;
        self.push(id)
    }

    fn string(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            0x8c | b'U' => self.count::<1>()?,
            0x8d => self.count::<8>()?,
            _ => self.count::<4>()?,
        };
        // Python strings may contain unpaired surrogates, and those of older protocols arbitrary bytes.
        let bytes = self.take(len)?;
        let is_text = std::str::from_utf8(bytes).is_ok();
        let value = if is_text {
            PickleValue::Text(self.span(bytes))
        } else {
            PickleValue::Opaque(Opaque::InvalidText)
        };
        self.push_new(value)
    }

    fn bytes(&mut self, opcode: u8) -> Result<()> {
        let len = match opcode {
            b'C' => self.count::<1>()?,
            b'B' => self.count::<4>()?,
            _ => self.count::<8>()?,
        };
        let bytes = self.take(len)?;
        self.push_new(PickleValue::Bytes(self.span(bytes)))
    }

    fn tuple(&mut self, opcode: u8) -> Result<()> {
        let at = match opcode {
            b')' => self.stack.len(),
            b't' => self.pop_mark()?,
            n => {
                let at = self.stack.len().checked_sub(usize::from(n - 0x84));
                at.filter(|&at| at >= self.floor()).ok_or("too few values on the stack for a tuple")?
            }
        };
        let tuple = self.values.tuple(&self.stack[at..])?;
        self.stack.truncate(at);
        self.push(tuple)
    }

    fn list(&mut self, items: Vec<ValueId>) -> Result<()> {
        self.values.limit.reserve_bytes(size_of::<Items>())?;
        self.values.reserve_items(items.len())?;
        self.push_new(PickleValue::List(Box::new(Items(items))))
    }

    fn dict(&mut self, items: Vec<(ValueId, ValueId)>) -> Result<()> {
        self.values.limit.reserve_bytes(size_of::<Pairs>())?;
        self.values.reserve_items(2 * items.len())?;
        self.push_new(PickleValue::Dict(Box::new(Pairs(items))))
    }

    fn append(&mut self, opcode: u8) -> Result<()> {
        let new = if opcode == b'a' { vec![self.pop()?] } else { self.since_mark()? };
        let list = self.top()?;
        self.values.reserve_items(new.len())?;
        if let Some(object) = self.values.object_mut(list)? {
            add(&mut object.items.0, new);
            return Ok(());
        }
        match self.values.get_mut(list) {
            PickleValue::List(items) => add(&mut items.0, new),
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
        let dict = self.top()?;
        self.values.reserve_items(new.len())?;
        if let Some(object) = self.values.object_mut(dict)? {
            add(&mut object.pairs.0, pairs(&new)?);
            return Ok(());
        }
        match self.values.get_mut(dict) {
            PickleValue::Dict(items) => add(&mut items.0, pairs(&new)?),
            other => return Err(format!("set item: expected a dictionary, got {other}")),
        }
        Ok(())
    }

    fn global(&mut self, opcode: u8) -> Result<()> {
        let (module, name) = if opcode == b'c' {
            let (module, name) = (self.line()?, self.line()?);
            let [module, name] = [module, name].map(|text| PickleValue::Text(self.span(text.as_bytes())));
            (self.values.add(module)?, self.values.add(name)?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            self.values.text(module).and(self.values.text(name)).map_err(|_| "a class without a name")?;
            (module, name)
        };
        self.push_new(PickleValue::Global { module, name })
    }

    fn call(&mut self, opcode: u8) -> Result<()> {
        // NEWOBJ_EX has keyword arguments too; no constructor that is recognised takes any.
        let has_keywords = opcode == 0x92;
        if has_keywords {
            self.pop()?;
        }
        let (arguments, callee) = (self.pop()?, self.pop()?);
        if self.values.items(arguments).is_err() {
            return Err(format!("expected a tuple of arguments, got {}", self.values.get(arguments)));
        }
        self.push_new(PickleValue::Call(Call { callee, arguments }))
    }

    /// Sets the state of an instance. That of a dictionary is not needed.
    fn build(&mut self) -> Result<()> {
        let new = self.pop()?;
        let top = self.top()?;
        if let Some(object) = self.values.object_mut(top)? {
            object.state = Some(new);
            return Ok(());
        }
        match self.values.get(top) {
            PickleValue::Dict(_) => Ok(()),
            other => Err(format!("build: expected an instance, got {other}")),
        }
    }

    fn push_new(&mut self, value: PickleValue) -> Result<()> {
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

    fn pop_mark(&mut self) -> Result<usize> {
        self.marks.pop().ok_or_else(|| "no mark on the stack".to_owned())
    }

    fn since_mark(&mut self) -> Result<Vec<ValueId>> {
        let at = self.pop_mark()?;
        Ok(self.stack.split_off(at))
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Reads a little-endian count of `N` bytes, at most eight.
    fn count<const N: usize>(&mut self) -> Result<usize> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.array::<N>()?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|e| e.to_string())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (out, rest) = self.code.split_first_chunk().ok_or("truncated")?;
        self.code = rest;
        Ok(*out)
    }

    /// Position of `part`, which is a part of the pickle.
    fn span(&self, part: &[u8]) -> Span {
        let start = part.as_ptr() as usize - self.pickle.as_ptr() as usize;
        Span { start: start as u32, len: part.len() as u32 }
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

/// Adds items to a container. The first ones take no more memory than they need, because most containers have few.
fn add<T>(items: &mut Vec<T>, new: Vec<T>) {
    if items.is_empty() {
        *items = new;
    } else {
        items.extend(new);
    }
}

fn pairs(items: &[ValueId]) -> Result<Vec<(ValueId, ValueId)>> {
    match items.as_chunks() {
        (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        _ => Err("a key without a value".into()),
    }
}
