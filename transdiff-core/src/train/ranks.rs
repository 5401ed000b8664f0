//! Division of a run among ranks: gradients are summed over all ranks while the backward pass goes on, and the optimiser's
//! state may be divided.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::buckets::{Bucket, Buckets, Slot, concatenated, divided, owners};
use crate::autograd::{Contributions, GradKey, Gradients, Param, Tape, Var, add_wide};
use crate::distributed::{Collectives, Communicator, Pending};
use crate::nn::Module;
use crate::{Backend, DType, Error, Result, Tensor};

/// Buckets of weights that are on the way at a time.
const IN_FLIGHT: usize = 4;

/// Way in which ranks divide a training run. Each computes its part of a step's samples; the sums of their gradients, and so
/// the weights, are equal on all ranks.
#[derive(Clone, Debug)]
pub struct Distribution<B: Backend> {
    /// The ranks and their device.
    pub collectives: Arc<dyn Collectives<B>>,
    /// Divides the optimiser's state: each rank keeps moments and EMA of some of the parameters, and updates them alone.
    pub shard_optimizer: bool,
    /// Type in which gradients are sent. `None`: that of the parameters. bf16 halves the bytes and rounds each rank's sum, and
    /// the sum of all, to 8 bits.
    pub gradient_dtype: Option<DType>,
    /// Bytes of the gradients that are sent at a time, at least; the last part has fewer.
    pub bucket_bytes: usize,
}

impl<B: Backend> Distribution<B> {
    /// A run on the ranks of `collectives`, each with the whole state, and buckets of 32 MiB.
    pub fn new(collectives: Arc<dyn Collectives<B>>) -> Self {
        Self { collectives, shard_optimizer: false, gradient_dtype: None, bucket_bytes: 32 << 20 }
    }

    pub(super) fn communicator(&self) -> &dyn Communicator {
        &**self.collectives.communicator()
    }
}

/// A run's ranks, and the places of its parameters in buckets.
pub(super) struct Ranks<B: Backend> {
    distribution: Distribution<B>,
    backend: B,
    /// Type of the parameters.
    dtype: DType,
    /// Rank that updates each parameter, by its number; `None` for frozen ones.
    owners: Vec<Option<usize>>,
    /// Trained parameters, the last of the model first.
    slots: Vec<Slot>,
    order: Mutex<Order>,
    /// Time that steps have waited for other ranks, in nanoseconds.
    waited: AtomicU64,
}

/// Order in which the backward pass completes gradients.
#[derive(Clone, Debug)]
struct Order {
    /// Buckets in this order, once it is known; until then in that of the slots.
    buckets: Arc<Buckets>,
    /// Contributions to each gradient, once a backward pass has been observed.
    contributions: Option<Arc<Contributions>>,
}

impl<B: Backend> fmt::Debug for Ranks<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ranks").field("distribution", &self.distribution).finish_non_exhaustive()
    }
}

impl<B: Backend> Ranks<B> {
    /// Ranks that train `module`, whose parameters say whether they are trained.
    pub(super) fn new(module: &dyn Module<B>, distribution: Distribution<B>) -> Result<Self> {
        let params = module.params();
        let first = params.first().map(|(_, param)| param.value());
        let first = first.ok_or_else(|| Error::argument("model", "a model with parameters", "none"))?;
        let (backend, dtype) = (first.backend().clone(), first.dtype());
        // The backward pass reaches the last layers first.
        let trained = params.iter().enumerate().rev().map(|(index, (_, param))| (index, *param));
        let trained: Vec<(usize, &Param<B>)> = trained.filter(|(_, param)| param.is_trainable()).collect();
        let ranks = distribution.communicator().size();
        let sizes: Vec<usize> = trained.iter().map(|(_, param)| param.value().numel()).collect();
        let owner_of =
            if distribution.shard_optimizer { owners(&sizes, ranks) } else { vec![0; sizes.len()] };
        let mut owners = vec![None; params.len()];
        let mut slots = Vec::with_capacity(trained.len());
        for ((index, param), owner) in trained.into_iter().zip(owner_of) {
            owners[index] = Some(owner);
            let (shape, axes) = (param.value().shape().to_vec(), param.value().memory_order());
            slots.push(Slot { key: param.key(), index, owner, shape, axes });
        }
        let buckets = Arc::new(Buckets::new(slots.clone(), distribution.bucket_bytes / dtype.size(), ranks));
        let order = Mutex::new(Order { buckets, contributions: None });
        Ok(Self { distribution, backend, dtype, owners, slots, order, waited: AtomicU64::new(0) })
    }

    pub(super) fn communicator(&self) -> &dyn Communicator {
        self.distribution.communicator()
    }

    /// Returns whether the optimiser's state is divided.
    pub(super) fn is_sharded(&self) -> bool {
        self.distribution.shard_optimizer
    }

    /// Returns whether another rank updates the parameter of this number.
    pub(super) fn is_updated_elsewhere(&self, index: usize) -> bool {
        self.is_sharded() && self.owners[index].is_some_and(|owner| owner != self.communicator().rank())
    }

    /// Forgets what is known of the backward pass, which other settings may change.
    pub(super) fn forget_order(&self) {
        lock(&self.order).contributions = None;
    }

    /// Learns the order in which `grads`, those of a whole backward pass, were completed: that of rank 0, on all ranks alike.
    fn learn_order(&self, grads: &Gradients<B>) -> Result<Order> {
        let places: HashMap<GradKey, usize> =
            self.slots.iter().enumerate().map(|(place, slot)| (slot.key, place)).collect();
        let completed = grads.completion_order().into_iter().filter_map(|key| places.get(&key).copied());
        let own = serde_json::to_vec(&completed.collect::<Vec<usize>>()).expect("numbers are plain data");
        let of_main = self.waiting(|| self.communicator().broadcast(0, &own))?;
        let mut order: Vec<usize> = serde_json::from_slice(&of_main).map_err(|error| Error::Backend {
            op: "backward",
            message: format!("rank 0 sent something else than an order of parameters: {error}"),
        })?;
        // Without a gradient, in the end.
        order.extend(0..self.slots.len());
        let mut seen = vec![false; self.slots.len()];
        order.retain(|&place| seen.get_mut(place).is_some_and(|seen| !std::mem::replace(seen, true)));
        let slots = order.into_iter().map(|place| self.slots[place].clone());
        let elements = self.distribution.bucket_bytes / self.dtype.size();
        let buckets = Arc::new(Buckets::new(slots, elements, self.communicator().size()));
        let order = Order { buckets, contributions: Some(Arc::new(grads.contributions())) };
        *lock(&self.order) = order.clone();
        Ok(order)
    }

    /// Time that steps have waited for other ranks.
    pub(super) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// Returns the result of `wait`, which waits for other ranks.
    pub(super) fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let out = wait();
        self.waited.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        out
    }

    /// Gradients of `loss`, added to `partial` as a [`TermSum`](crate::distributed::TermSum) adds its last term, and summed over
    /// all ranks: of all trained parameters, or of those that this rank updates.
    pub(super) fn reduce(
        self: &Arc<Self>,
        tape: &Tape<B>,
        loss: &Var<B>,
        partial: Vec<Gradients<B>>,
    ) -> Result<Gradients<B>> {
        let Order { buckets, contributions } = lock(&self.order).clone();
        let Some(expected) = contributions else {
            // The first time, nothing is sent before all is complete.
            let mut grads = Gradients::new();
            tape.backward_into(loss, &mut grads)?;
            let Order { buckets, .. } = self.learn_order(&grads)?;
            let mut reduction = Reduction::new(Arc::clone(self), buckets, partial);
            grads.into_values().try_for_each(|(key, grad)| reduction.receive(key, grad))?;
            return reduction.finish();
        };
        let reduction = Arc::new(Mutex::new(Reduction::new(Arc::clone(self), buckets, partial)));
        let receiver = Arc::clone(&reduction);
        let mut grads =
            Gradients::handing_over(expected, move |key, grad| lock(&receiver).receive(key, grad));
        tape.backward_into(loss, &mut grads)?;
        let rest: Vec<_> = grads.into_values().collect();
        let reduction = Arc::into_inner(reduction).expect("the receiver is gone");
        let mut reduction = reduction.into_inner().unwrap_or_else(PoisonError::into_inner);
        rest.into_iter().try_for_each(|(key, grad)| reduction.receive(key, grad))?;
        reduction.finish()
    }

    /// Numbers of all ranks, one per trained parameter in the model's order, of which each rank has in `own` those of the
    /// parameters that it updates.
    pub(super) fn gather_numbers(&self, own: Vec<f64>) -> Result<Vec<f64>> {
        if !self.is_sharded() {
            return Ok(own);
        }
        let sent: Vec<u8> = own.iter().flat_map(|number| number.to_le_bytes()).collect();
        let all = self.waiting(|| self.communicator().gather(&sent))?;
        let of = |(place, &owner): (usize, &usize)| {
            let bytes = all.get(owner).and_then(|bytes| bytes.as_chunks().0.get(place));
            bytes.map(|&bytes| f64::from_le_bytes(bytes)).ok_or_else(|| Error::Backend {
                op: "gather_numbers",
                message: format!("rank {owner} trains other parameters"),
            })
        };
        self.owners.iter().flatten().enumerate().map(of).collect()
    }

    /// Gathers, bucket by bucket, tensors like the parameters, of which each rank has those that it updates: `own` returns
    /// them by the parameter's number. `visit` takes those of all ranks, with their parameters' numbers.
    pub(super) fn gather(
        &self,
        mut own: impl FnMut(usize) -> Result<Tensor<B>>,
        mut visit: impl FnMut(usize, Tensor<B>) -> Result<()>,
    ) -> Result<()> {
        let rank = self.communicator().rank();
        let mut take = |(bucket, pending): (&Bucket, Pending<B>)| {
            let whole = self.waiting(|| pending.wait())?;
            divided(&whole, bucket.slots.iter())?
                .into_iter()
                .try_for_each(|(slot, value)| visit(slot.index, value))
        };
        let buckets = Arc::clone(&lock(&self.order).buckets);
        let mut pending: VecDeque<(&Bucket, Pending<B>)> = VecDeque::new();
        for bucket in &buckets.list {
            if pending.len() == IN_FLIGHT {
                pending.pop_front().map_or(Ok(()), &mut take)?;
            }
            let parts: Vec<Tensor<B>> =
                bucket.owned_by(rank).map(|slot| slot.flat(&own(slot.index)?)).collect::<Result<_>>()?;
            let part = match concatenated(parts)? {
                Some(part) => part,
                None => Tensor::zeros(&self.backend, &[0], self.dtype)?,
            };
            pending.push_back((bucket, self.distribution.collectives.all_gather(part, &bucket.owned)?));
        }
        pending.into_iter().try_for_each(take)
    }
}

/// Sums over all ranks of a step's gradients, bucket by bucket, as they become complete.
struct Reduction<B: Backend> {
    ranks: Arc<Ranks<B>>,
    buckets: Arc<Buckets>,
    /// Sums of earlier passes, to which a gradient is added: to the last first.
    partial: Vec<Gradients<B>>,
    /// Gradients of each bucket that is not complete, by slot.
    ready: VecDeque<Vec<Option<Tensor<B>>>>,
    /// Sums of the first buckets, in flight.
    pending: Vec<Pending<B>>,
}

impl<B: Backend> Reduction<B> {
    fn new(ranks: Arc<Ranks<B>>, buckets: Arc<Buckets>, partial: Vec<Gradients<B>>) -> Self {
        let ready = buckets.list.iter().map(|bucket| vec![None; bucket.slots.len()]).collect();
        Self { ranks, buckets, partial, ready, pending: Vec::new() }
    }

    /// Takes the gradient of the last pass for `key`.
    fn receive(&mut self, key: GradKey, grad: Tensor<B>) -> Result<()> {
        let Some(&[bucket, slot]) = self.buckets.places.get(&key) else { return Ok(()) };
        let of_bucket = bucket.checked_sub(self.pending.len()).and_then(|place| self.ready.get(place));
        if of_bucket.is_none_or(|slots| slots[slot].is_some()) {
            let message = "a parameter received more gradients than in the first step".to_owned();
            return Err(Error::Backend { op: "backward", message });
        }
        let sum = self.with_earlier_passes(key, Some(grad))?;
        let place = bucket - self.pending.len();
        self.ready[place][slot] = sum;
        // In the order of the buckets, which is the same on all ranks.
        while self.ready.front().is_some_and(|slots| slots.iter().all(Option::is_some)) {
            let complete = self.ready.pop_front().unwrap_or_default();
            self.start(complete.into_iter().flatten().collect())?;
        }
        Ok(())
    }

    /// The gradient of the last pass, if there is one, and those of earlier passes.
    fn with_earlier_passes(
        &mut self,
        key: GradKey,
        mut grad: Option<Tensor<B>>,
    ) -> Result<Option<Tensor<B>>> {
        for earlier in self.partial.iter_mut().rev() {
            grad = match (earlier.remove(key), grad) {
                (Some(earlier), Some(grad)) => Some(add_wide(earlier, grad)?),
                (earlier, grad) => earlier.or(grad),
            };
        }
        Ok(grad)
    }

    /// Starts to sum the next bucket, whose slots have the gradients `grads`.
    fn start(&mut self, grads: Vec<Tensor<B>>) -> Result<()> {
        let (ranks, bucket) = (&self.ranks, &self.buckets.list[self.pending.len()]);
        let dtype = ranks.distribution.gradient_dtype.unwrap_or(ranks.dtype);
        let flat = bucket.slots.iter().zip(&grads).map(|(slot, grad)| slot.flat(&grad.cast(dtype)?));
        let flat: Vec<Tensor<B>> = flat.collect::<Result<_>>()?;
        drop(grads);
        // The only owner of its memory, which a device may then sum in place.
        let sent = concatenated(flat)?.expect("buckets have slots");
        let collectives = &ranks.distribution.collectives;
        self.pending.push(match ranks.is_sharded() {
            true => collectives.reduce_scatter(sent, &bucket.owned)?,
            false => collectives.all_reduce(sent)?,
        });
        Ok(())
    }

    /// Waits for all sums.
    fn finish(mut self) -> Result<Gradients<B>> {
        // What the loss does not depend on has a gradient of zero on this rank.
        while let Some(slots) = self.ready.pop_front() {
            let (ranks, buckets) = (Arc::clone(&self.ranks), Arc::clone(&self.buckets));
            let mut grads = Vec::with_capacity(slots.len());
            for (slot, grad) in buckets.list[self.pending.len()].slots.iter().zip(slots) {
                let grad = match grad {
                    Some(grad) => Some(grad),
                    None => self.with_earlier_passes(slot.key, None)?,
                };
                grads.push(grad.map_or_else(|| Tensor::zeros(&ranks.backend, &slot.shape, ranks.dtype), Ok)?);
            }
            self.start(grads)?;
        }
        let (ranks, rank) = (&self.ranks, self.ranks.communicator().rank());
        let mut out = Vec::new();
        for (bucket, pending) in self.buckets.list.iter().zip(self.pending) {
            let sum = ranks.waiting(|| pending.wait())?.cast(ranks.dtype)?;
            let divided = match ranks.is_sharded() {
                true => divided(&sum, bucket.owned_by(rank))?,
                false => divided(&sum, bucket.slots.iter())?,
            };
            out.extend(divided.into_iter().map(|(slot, grad)| (slot.key, grad)));
        }
        Ok(out.into_iter().collect())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Context;
    use crate::distributed::{HostCollectives, Solo};
    use crate::models::transdiff::{FlowObjective, Mode, TransDiff, TransDiffConfig};
    use crate::models::{SampleKey, Samples, Trainable};
    use crate::reference::Reference;

    fn model(mode: Mode) -> TransDiff<Reference> {
        let config = TransDiffConfig {
            width: 8,
            heads: 2,
            encoder_blocks: 2,
            decoder_blocks: 3,
            mlp_ratio: 2,
            classes: 3,
            buffer_size: 2,
            feature_tokens: 8,
            latent_channels: 2,
            latent_size: 4,
            mode,
            distilled: false,
        };
        TransDiff::new(&Reference, &config, DType::F32, 1).unwrap()
    }

    /// Tape and loss of a pass on two samples.
    fn pass(model: &TransDiff<Reference>, checkpointing: bool) -> (Tape<Reference>, Var<Reference>) {
        let (shape, objective) = (model.sample_shape(), FlowObjective::default());
        let [c, h, w] = shape.latent;
        let latents = Tensor::full(&Reference, &[2, c, h, w], 0.5, DType::F32).unwrap();
        let draw = |number| TransDiff::<Reference>::draw(&shape, &objective, SampleKey { seed: 0, number });
        let samples = Samples { labels: vec![0, 1], latents: vec![latents; shape.latents_per_sample] };
        let batch = model.batch(samples, vec![draw(0), draw(1)]).unwrap();
        let tape = Tape::new();
        let mut ctx = Context::recording(tape.clone());
        if checkpointing {
            ctx = ctx.with_gradient_checkpointing();
        }
        let loss = model.loss(&ctx, &batch, &objective).unwrap();
        (tape, loss)
    }

    /// The decoder computes the keys and values of all its blocks first, so that their gradients come after those of all blocks.
    #[test]
    fn buckets_are_sent_as_soon_as_they_are_complete() {
        for mode in [Mode::OneStep, Mode::MultiReference { groups: 2 }] {
            for checkpointing in [false, true] {
                let model = model(mode);
                let collectives = HostCollectives::new(Arc::new(Solo)).unwrap();
                let distribution =
                    Distribution { bucket_bytes: 600, ..Distribution::new(Arc::new(collectives)) };
                let ranks = Arc::new(Ranks::new(&model, distribution).unwrap());
                let (tape, loss) = pass(&model, checkpointing);
                ranks.reduce(&tape, &loss, Vec::new()).unwrap();

                let Order { buckets, contributions } = lock(&ranks.order).clone();
                let reduction = Reduction::new(Arc::clone(&ranks), Arc::clone(&buckets), Vec::new());
                let reduction = Arc::new(Mutex::new(reduction));
                let receiver = Arc::clone(&reduction);
                let started = Arc::new(Mutex::new(Vec::new()));
                let log = Arc::clone(&started);
                let mut grads = Gradients::handing_over(contributions.unwrap(), move |key, grad| {
                    let mut reduction = lock(&receiver);
                    reduction.receive(key, grad)?;
                    let waiting = |slots: &Vec<Option<_>>| slots.iter().all(Option::is_some);
                    assert!(!reduction.ready.iter().any(waiting), "a complete bucket waits for another");
                    lock(&log).push(reduction.pending.len());
                    Ok(())
                });
                let (tape, loss) = pass(&model, checkpointing);
                tape.backward_into(&loss, &mut grads).unwrap();
                assert_eq!(grads.into_values().count(), 0, "all gradients were handed over");
                let started = lock(&started).clone();
                let half = started[started.len() / 2];
                assert!(buckets.list.len() > 20, "{} buckets", buckets.list.len());
                assert!(
                    half > buckets.list.len() / 4,
                    "{half} buckets after half of the gradients: {started:?}"
                );
            }
        }
    }
}
