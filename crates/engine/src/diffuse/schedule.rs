//! How many masks a step commits.

/// Of `masks` masks in `steps` steps: those of step `i`. They sum to `masks`.
pub(super) fn even(masks: u32, steps: u32, i: u32) -> u32 {
    masks / steps + u32::from(i < masks % steps)
}

/// Time `i` of `steps + 1` times from 1 to `eps`, in f32 as published: counted from the nearer end.
fn time(steps: u32, eps: f32, i: u32) -> f32 {
    let step = (eps - 1.0) / steps as f32;
    if i < steps.div_ceil(2) { 1.0 + step * i as f32 } else { eps - step * (steps - i) as f32 }
}

/// `s/t`: the part of the masks that stays masked from time `i` to the next.
pub(super) fn stays(steps: u32, eps: f32, i: u32) -> f32 {
    time(steps, eps, i + 1) / time(steps, eps, i)
}

/// `floor(m (1 - s/t))` of `m` masks in step `i`; all in the last.
pub(super) fn timed(masks: u32, steps: u32, eps: f32, i: u32) -> u32 {
    if i + 1 >= steps {
        return masks;
    }
    (masks as f32 * (1.0 - stays(steps, eps, i))) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_shares_are_the_definition() {
        assert_eq!((0..5).map(|i| even(13, 5, i)).collect::<Vec<_>>(), [3, 3, 3, 2, 2]);
        for (masks, steps) in [(0, 3), (7, 7), (3, 8), (256, 31)] {
            assert_eq!((0..steps).map(|i| even(masks, steps, i)).sum::<u32>(), masks);
        }
    }

    /// What PyTorch 2 gives for `int(tensor(m) * (1 - t[i + 1] / t[i]))` with `t = linspace(1, 1e-3,
    /// S + 1)`, all masks in the last step, until none is left: `oracles/dream_schedule.py`.
    #[test]
    fn timed_shares_are_those_of_pytorch() {
        for line in include_str!("timed.txt").lines() {
            let mut numbers = line.split(' ').map(|n| n.parse::<u32>().unwrap());
            let (steps, mut masks) = (numbers.next().unwrap(), numbers.next().unwrap());
            for (i, expected) in numbers.enumerate() {
                let n = timed(masks, steps, 1e-3, i as u32);
                assert_eq!(n, expected, "step {i} of {steps}");
                masks -= n;
            }
            assert_eq!(masks, 0, "{steps} steps");
        }
    }
}
