//! Ranks that are threads of one process.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use transdiff_core::distributed::Communicator;
use transdiff_core::{Error, Result};

/// A rank whose messages go through channels.
#[derive(Debug)]
pub struct ThreadRank {
    rank: usize,
    to: Vec<Mutex<Sender<Vec<u8>>>>,
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
}

impl ThreadRank {
    /// All of `size` ranks.
    pub fn all(size: usize) -> Vec<Arc<Self>> {
        let mut receivers: Vec<Vec<_>> = (0..size).map(|_| Vec::new()).collect();
        let mut senders: Vec<Vec<_>> = (0..size).map(|_| Vec::new()).collect();
        for senders in &mut senders {
            for receivers in &mut receivers {
                let (sender, receiver) = channel();
                senders.push(Mutex::new(sender));
                receivers.push(Mutex::new(receiver));
            }
        }
        let ranks = senders.into_iter().zip(receivers).enumerate();
        ranks.map(|(rank, (to, from))| Arc::new(Self { rank, to, from })).collect()
    }

    fn send(&self, rank: usize, bytes: &[u8]) -> Result<()> {
        let gone = |_| Error::Backend { op: "send", message: format!("rank {rank} is gone") };
        self.to[rank].lock().unwrap().send(bytes.to_vec()).map_err(gone)
    }

    fn receive(&self, rank: usize, count: usize) -> Result<Vec<u8>> {
        let gone = |_| Error::Backend { op: "receive", message: format!("rank {rank} is gone") };
        let bytes = self.from[rank].lock().unwrap().recv().map_err(gone)?;
        assert_eq!(bytes.len(), count, "rank {} expected {count} bytes from rank {rank}", self.rank);
        Ok(bytes)
    }
}

impl Communicator for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn local_rank(&self) -> usize {
        self.rank
    }

    fn local_size(&self) -> usize {
        self.to.len()
    }

    fn all_to_all(&self, mut send: &[u8], counts: &[usize]) -> Result<Vec<u8>> {
        assert_eq!(send.len(), counts.iter().sum::<usize>());
        for (rank, &count) in counts.iter().enumerate() {
            self.send(rank, send.split_off(..count).unwrap())?;
        }
        let received = (0..self.size()).map(|rank| self.receive(rank, counts[self.rank]));
        Ok(received.collect::<Result<Vec<_>>>()?.concat())
    }

    fn all_gather(&self, part: &[u8], counts: &[usize]) -> Result<Vec<u8>> {
        assert_eq!(part.len(), counts[self.rank]);
        (0..self.size()).try_for_each(|rank| self.send(rank, part))?;
        let received = counts.iter().enumerate().map(|(rank, &count)| self.receive(rank, count));
        Ok(received.collect::<Result<Vec<_>>>()?.concat())
    }

    fn abort(&self, exit_code: i32) -> ! {
        panic!("rank {} aborts with {exit_code}", self.rank)
    }
}
