//! Reading ahead of the samples of a training run.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{Dataset, Groups, Shuffle, ShuffledOrder};
use crate::rng::{Purpose, StreamKey};
use crate::{Error, Result};

/// Options of a [`DataLoader`]. By default all items are shuffled, and read when they are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Threads that read samples ahead; with none, samples are read when they are asked for.
    pub threads: usize,
    /// Number of samples that are read ahead.
    pub ahead: usize,
    /// Way of shuffling an epoch.
    pub shuffle: Shuffle,
    /// Samples of several items; by default they are drawn from the class of the first.
    pub groups: Option<Groups>,
    /// Samples that are read ahead in sequence; by default all.
    pub stride: Option<Stride>,
}

/// A repeated part of the samples: those of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stride {
    /// Number of consecutive samples that are read, at least 1.
    pub read: u64,
    /// Number of samples after them that are not.
    pub skipped: u64,
}

/// A training sample in host memory: contents of the dataset, and everything that was drawn for it.
#[derive(Clone, Debug)]
pub struct Sample<D> {
    /// Class.
    pub label: usize,
    /// Elements of its items.
    pub items: Vec<Vec<f32>>,
    /// Random draws of the training objective.
    pub draws: D,
}

/// Draws for the sample of a number.
type Draw<D> = dyn Fn(u32) -> D + Send + Sync;

/// Samples of a training run by number. They are read ahead by threads of their own into a bounded queue; each depends on
/// its number alone, not on the number of threads.
pub struct DataLoader<D> {
    reader: Arc<Reader<D>>,
    queue: Arc<Queue<D>>,
    threads: Vec<JoinHandle<()>>,
}

/// Reads single samples.
struct Reader<D> {
    set: Arc<dyn Dataset>,
    order: ShuffledOrder,
    seed: u64,
    draw: Box<Draw<D>>,
}

/// Samples that were read, and those that are to be read.
struct Queue<D> {
    state: Mutex<State<D>>,
    /// Signals threads that there is something to read.
    work: Condvar,
    /// Signals the consumer that a sample was read.
    read: Condvar,
}

struct State<D> {
    /// Number of the sample that the sequence begins with.
    origin: u64,
    /// Place in the sequence of the next sample that will be taken.
    next: u64,
    /// Place in the sequence of the next sample that no thread has begun to read.
    unread: u64,
    ahead: u64,
    stride: Option<Stride>,
    /// Incremented when the position changes: what was begun before is discarded.
    generation: u64,
    done: BTreeMap<u64, Result<Sample<D>>>,
    closed: bool,
}

impl<D: Send + 'static> DataLoader<D> {
    /// Loader of the samples of `set`, of `group` items each. Order and items' draws depend on `seed`; `draw` makes the draws
    /// of the training objective for the sample of a number.
    ///
    /// # Errors
    /// Those of [`ShuffledOrder::new`]; [`Error::Backend`] if the system starts no thread.
    pub fn new(
        set: Arc<dyn Dataset>,
        group: usize,
        seed: u64,
        draw: impl Fn(u32) -> D + Send + Sync + 'static,
        options: LoaderOptions,
    ) -> Result<Self> {
        let order = ShuffledOrder::new(&*set, group, options.groups, options.shuffle, seed)?;
        let reader = Arc::new(Reader { set, order, seed, draw: Box::new(draw) });
        let ahead = options.ahead.max(options.threads) as u64;
        let stride = options.stride.filter(|stride| stride.read > 0);
        let (done, closed) = (BTreeMap::new(), false);
        let state = State { origin: 0, next: 0, unread: 0, ahead, stride, generation: 0, done, closed };
        let queue = Arc::new(Queue { state: Mutex::new(state), work: Condvar::new(), read: Condvar::new() });
        let mut loader = Self { reader, queue, threads: Vec::new() };
        for index in 0..options.threads {
            let (reader, queue) = (Arc::clone(&loader.reader), Arc::clone(&loader.queue));
            let thread = std::thread::Builder::new().name(format!("loader {index}"));
            let thread = thread.spawn(move || queue.serve(&reader)).map_err(|error| Error::Backend {
                op: "DataLoader::new",
                message: format!("cannot start a thread: {error}"),
            })?;
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    /// The dataset.
    pub fn dataset(&self) -> &dyn Dataset {
        &*self.reader.set
    }

    /// Seed of the order and of the items' draws.
    pub fn seed(&self) -> u64 {
        self.reader.seed
    }

    /// Number of samples per epoch.
    pub fn samples_per_epoch(&self) -> u64 {
        self.reader.order.samples_per_epoch()
    }

    /// The samples `first..first + count` of the run. Asked for in sequence, they have been read ahead.
    ///
    /// # Errors
    /// Those of reading the dataset; [`Error::Argument`] beyond 2³² samples.
    pub fn samples(&mut self, first: u64, count: usize) -> Result<Vec<Sample<D>>> {
        (first..first + count as u64).map(|number| self.sample(number)).collect()
    }

    fn sample(&self, number: u64) -> Result<Sample<D>> {
        if self.threads.is_empty() {
            return self.reader.sample(number);
        }
        let mut state = self.queue.lock();
        if state.number(state.next) != number {
            state.seek(number);
            self.queue.work.notify_all();
        }
        let sample = loop {
            match state.done.remove(&number) {
                Some(sample) => break sample,
                None => state = self.queue.read.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        match sample.is_ok() {
            true => state.next += 1,
            false => state.seek(number), // What failed is read again if it is asked for again.
        }
        self.queue.work.notify_one();
        sample
    }
}

impl<D> Drop for DataLoader<D> {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of a dataset was handed to the consumer already.
            let _ = thread.join();
        }
    }
}

impl<D> fmt::Debug for DataLoader<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = self.threads.len();
        f.debug_struct("DataLoader").field("threads", &threads).finish_non_exhaustive()
    }
}

impl<D> Reader<D> {
    fn sample(&self, number: u64) -> Result<Sample<D>> {
        let Ok(number) = u32::try_from(number) else {
            return Err(Error::argument("samples", "at most 2^32 samples in a run", number));
        };
        let indices = self.order.sample(number, &*self.set);
        let read = |(place, &index): (usize, &usize)| {
            let mut stream = StreamKey::new(self.seed, Purpose::Item, place as u32, number).stream();
            let mut values = Vec::new();
            self.set.read(index, &mut stream, &mut values)?;
            let [c, h, w] = self.set.item_shape();
            match values.len() == c * h * w {
                true => Ok(values),
                false => Err(Error::shape(
                    "training data",
                    format!("items of shape {:?}", [c, h, w]),
                    &[values.len()],
                )),
            }
        };
        let items = indices.iter().enumerate().map(read).collect::<Result<_>>()?;
        Ok(Sample { label: self.set.label(indices[0]), items, draws: (self.draw)(number) })
    }
}

impl<D> Queue<D> {
    fn lock(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads samples until the queue is closed.
    fn serve(&self, reader: &Reader<D>) {
        let mut state = self.lock();
        while !state.closed {
            if state.unread >= state.next + state.ahead {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (number, generation) = (state.number(state.unread), state.generation);
            state.unread += 1;
            drop(state);
            // Without it, the consumer would wait for ever for a sample whose reading panicked.
            let sample = catch_unwind(AssertUnwindSafe(|| reader.sample(number))).unwrap_or_else(|_| {
                Err(Error::Backend { op: "training data", message: "a dataset panicked".into() })
            });
            state = self.lock();
            if state.generation == generation {
                state.done.insert(number, sample);
                self.read.notify_one();
            }
        }
    }
}

impl<D> State<D> {
    /// Number of the sample at a place in the sequence.
    fn number(&self, place: u64) -> u64 {
        let skipped = self.stride.map_or(0, |stride| place / stride.read * stride.skipped);
        self.origin + place + skipped
    }

    /// Begins the sequence anew.
    fn seek(&mut self, number: u64) {
        (self.origin, self.next, self.unread) = (number, 0, 0);
        self.generation += 1;
        self.done.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::MemoryDataset;
    use crate::rng::Philox;

    fn set() -> MemoryDataset {
        MemoryDataset::new([1, 1, 1], (0..50).map(|i| i as f32).collect(), vec![0; 50]).unwrap()
    }

    fn loader(set: impl Dataset + 'static, threads: usize, ahead: usize) -> DataLoader<u32> {
        let options = LoaderOptions { threads, ahead, ..LoaderOptions::default() };
        DataLoader::new(Arc::new(set), 2, 3, |number| number, options).unwrap()
    }

    fn values(samples: Vec<Sample<u32>>) -> Vec<(u32, Vec<Vec<f32>>)> {
        samples.into_iter().map(|sample| (sample.draws, sample.items)).collect()
    }

    #[test]
    fn samples_do_not_depend_on_the_number_of_threads() {
        let mut plain = loader(set(), 0, 0);
        for (threads, ahead) in [(1, 1), (1, 7), (3, 2), (4, 64)] {
            let mut threaded = loader(set(), threads, ahead);
            // In sequence, then back, then far ahead.
            for (first, count) in [(0, 30), (30, 5), (10, 40), (1000, 3), (1003, 60)] {
                let expected = values(plain.samples(first, count).unwrap());
                assert_eq!(values(threaded.samples(first, count).unwrap()), expected, "{threads} {ahead}");
            }
        }
        let error = plain.samples(1 << 32, 1).unwrap_err();
        assert!(matches!(error, Error::Argument { argument: "samples", .. }), "{error}");
    }

    #[test]
    fn samples_of_a_stride_are_read_ahead() {
        let read = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&read);
        let draw = move |number| log.lock().unwrap().push(number);
        let stride = Some(Stride { read: 2, skipped: 4 });
        let options = LoaderOptions { threads: 1, ahead: 3, stride, ..LoaderOptions::default() };
        let mut loader = DataLoader::new(Arc::new(set()), 1, 3, draw, options).unwrap();
        for first in [12, 18, 24] {
            loader.samples(first, 2).unwrap();
        }
        drop(loader);
        let read = read.lock().unwrap().clone();
        assert!(read.starts_with(&[12, 13, 18, 19, 24, 25]), "{read:?}");
        assert!(read.iter().all(|number| number % 6 < 2), "{read:?}");
    }

    /// Fails at item 7 as often as the counter says, and panics at item 9.
    struct Failing(Mutex<u32>);

    impl Dataset for Failing {
        fn len(&self) -> usize {
            50
        }

        fn item_shape(&self) -> [usize; 3] {
            [1, 1, 1]
        }

        fn label(&self, _: usize) -> usize {
            0
        }

        fn read(&self, index: usize, _: &mut Philox, out: &mut Vec<f32>) -> Result<()> {
            let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if index == 7 && *left > 0 {
                *left -= 1;
                return Err(Error::argument("item", "a readable one", index));
            }
            assert!(index != 9, "unreadable");
            out.push(index as f32);
            Ok(())
        }
    }

    #[test]
    fn failures_reach_the_consumer_and_can_be_retried() {
        for threads in [1, 3] {
            let set = Arc::new(Failing(Mutex::new(1)));
            let options =
                LoaderOptions { threads, ahead: 8, shuffle: Shuffle::None, ..LoaderOptions::default() };
            let mut loader = DataLoader::new(set, 1, 3, |n| n, options).unwrap();
            assert_eq!(loader.samples(0, 7).unwrap().len(), 7);
            assert!(matches!(loader.samples(7, 1), Err(Error::Argument { argument: "item", .. })));
            assert_eq!(loader.samples(7, 2).unwrap()[0].items, [[7.0]]);
            let error = loader.samples(9, 1).unwrap_err();
            assert!(error.to_string().contains("panicked"), "{error}");
            assert_eq!(loader.samples(10, 30).unwrap()[29].items, [[39.0]]);
        }
    }
}
