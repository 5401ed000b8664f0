//! Sums of terms that come one after another, in a fixed order.

use crate::Result;
use crate::backend::Summation;

impl Summation {
    /// Number of additions that follow on term `index` of `count`.
    fn additions_after(self, index: usize, count: usize) -> usize {
        match self {
            Self::Sequential => usize::from(index > 0),
            Self::Pairwise if count == 1 => 0,
            Self::Pairwise => {
                let half = count.div_ceil(2);
                match index.checked_sub(half) {
                    None => self.additions_after(index, half),
                    Some(index) => {
                        self.additions_after(index, count - half) + usize::from(index + 1 == count - half)
                    }
                }
            }
        }
    }

    /// Largest number of partial sums that are kept while one of `count` terms is computed.
    pub fn kept(self, count: usize) -> usize {
        match self {
            Self::Sequential => count.saturating_sub(1).min(1),
            Self::Pairwise => count.checked_ilog2().unwrap_or(0) as usize,
        }
    }
}

/// A sum of `count` terms that come one after another.
#[derive(Debug)]
pub struct TermSum<T> {
    summation: Summation,
    count: usize,
    added: usize,
    partial: Vec<T>,
}

impl<T> TermSum<T> {
    /// A sum of `count` terms, none of which has come.
    pub fn new(summation: Summation, count: usize) -> Self {
        Self { summation, count, added: 0, partial: Vec::new() }
    }

    /// Takes the next term; `add` adds two.
    ///
    /// # Errors
    /// Those of `add`.
    pub fn push(&mut self, mut term: T, mut add: impl FnMut(T, T) -> Result<T>) -> Result<()> {
        for _ in 0..self.summation.additions_after(self.added, self.count) {
            let left = self.partial.pop().expect("each addition has a sum on its left");
            term = add(left, term)?;
        }
        self.partial.push(term);
        self.added += 1;
        Ok(())
    }

    /// Returns the sum after the last term; `None` if there was none.
    pub fn finish(mut self) -> Option<T> {
        self.partial.pop()
    }

    /// Returns the partial sums that the last term has yet to be added to: to the last of them first.
    pub fn into_partial(self) -> Vec<T> {
        self.partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The terms first..last, added pairwise.
    fn pairwise(first: usize, last: usize) -> String {
        match last - first {
            1 => first.to_string(),
            count => {
                let middle = first + count.div_ceil(2);
                format!("({}+{})", pairwise(first, middle), pairwise(middle, last))
            }
        }
    }

    #[test]
    fn terms_are_added_in_the_order_of_the_tree() {
        for count in 1..70 {
            let mut sum = TermSum::new(Summation::Pairwise, count);
            let mut kept = 0;
            for term in 0..count {
                kept = kept.max(sum.partial.len());
                sum.push(term.to_string(), |a, b| Ok(format!("({a}+{b})"))).unwrap();
            }
            assert_eq!(sum.finish().unwrap(), pairwise(0, count));
            assert_eq!(kept, Summation::Pairwise.kept(count), "{count}");
        }
    }

    #[test]
    fn sums_of_ranks_are_subtrees() {
        for ranks in [1, 2, 4, 8] {
            for each in 1..10 {
                let of_rank = |rank: usize| pairwise(rank * each, (rank + 1) * each);
                let mut sum = TermSum::new(Summation::Pairwise, ranks);
                (0..ranks).for_each(|rank| sum.push(of_rank(rank), |a, b| Ok(format!("({a}+{b})"))).unwrap());
                assert_eq!(sum.finish().unwrap(), pairwise(0, ranks * each));
            }
        }
    }

    #[test]
    fn sequential_sums_keep_one_term() {
        let mut sum = TermSum::new(Summation::Sequential, 5);
        for term in 0..5 {
            assert!(sum.partial.len() <= Summation::Sequential.kept(5));
            sum.push(term.to_string(), |a, b| Ok(format!("({a}+{b})"))).unwrap();
        }
        assert_eq!(sum.finish().unwrap(), "((((0+1)+2)+3)+4)");
    }
}
