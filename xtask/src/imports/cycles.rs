//! Strongly connected components of the graph of imports (Tarjan's algorithm).

use std::collections::VecDeque;

use super::Import;

/// Files that import each other, directly or through others.
pub struct Component<'a> {
    pub files: Vec<usize>,
    /// The imports of a shortest cycle.
    pub example: Vec<&'a Import>,
}

/// The components of more than one file.
pub fn components(files: usize, imports: &[Import]) -> Vec<Component<'_>> {
    let mut outgoing = vec![Vec::new(); files];
    imports.iter().for_each(|import| outgoing[import.from].push(import));
    let mut search = Search {
        outgoing: &outgoing,
        state: vec![None; files],
        stack: Vec::new(),
        visited: 0,
        found: Vec::new(),
    };
    for file in 0..files {
        search.visit(file);
    }
    let components = search.found.into_iter().filter(|files| files.len() > 1);
    components.map(|files| Component { example: shortest_cycle(&outgoing, &files), files }).collect()
}

#[derive(Clone, Copy)]
struct State {
    index: usize,
    on_stack: bool,
}

struct Search<'a> {
    outgoing: &'a [Vec<&'a Import>],
    state: Vec<Option<State>>,
    stack: Vec<usize>,
    visited: usize,
    found: Vec<Vec<usize>>,
}

impl Search<'_> {
    /// The lowest index that is reachable from `file` and still on the stack, if any.
    fn visit(&mut self, file: usize) -> Option<usize> {
        if let Some(state) = self.state[file] {
            return state.on_stack.then_some(state.index);
        }
        let index = self.visited;
        self.visited += 1;
        self.state[file] = Some(State { index, on_stack: true });
        self.stack.push(file);
        let mut lowest = index;
        for import in &self.outgoing[file] {
            lowest = lowest.min(self.visit(import.to).unwrap_or(lowest));
        }
        if lowest == index {
            let start = self.stack.iter().position(|&f| f == file).expect("pushed above");
            let component = self.stack.split_off(start);
            for &member in &component {
                self.state[member].as_mut().expect("visited").on_stack = false;
            }
            self.found.push(component);
        }
        Some(lowest)
    }
}

/// Breadth first from every file of the component; the first of the shortest cycles.
fn shortest_cycle<'a>(outgoing: &[Vec<&'a Import>], component: &[usize]) -> Vec<&'a Import> {
    let cycles = component.iter().filter_map(|&start| cycle_through(outgoing, start));
    cycles.min_by_key(Vec::len).expect("a component of more than one file has a cycle")
}

fn cycle_through<'a>(outgoing: &[Vec<&'a Import>], start: usize) -> Option<Vec<&'a Import>> {
    let mut reached_by: Vec<Option<&Import>> = vec![None; outgoing.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for &import in &outgoing[file] {
            if reached_by[import.to].is_some() {
                continue;
            }
            reached_by[import.to] = Some(import);
            if import.to == start {
                let back = std::iter::successors(Some(import), |i| {
                    if i.from == start { None } else { reached_by[i.from] }
                });
                let mut cycle: Vec<&Import> = back.collect();
                cycle.reverse();
                return Some(cycle);
            }
            queue.push_back(import.to);
        }
    }
    None
}
