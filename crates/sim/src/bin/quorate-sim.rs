//! Runs simulated clusters.
use sim::plan::Options;
fn main() {
    let seed: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1);
    let seconds: u64 = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(20);
    let faults = std::env::args().nth(3).is_none();
    let start = std::time::Instant::now();
    let run = sim::world::run(&Options { seed, seconds, members: None, faults });
    println!("hash {:x} steps {} sim {} ops {} watches {} log {} faults {:?}", run.trace_hash, run.steps, run.simulated_us, run.history.ops.len(), run.history.watches.len(), run.history.log.len(), run.faults);
    println!("{:?} {:.1} sim s/s", start.elapsed(), run.simulated_us as f64 / 1e6 / start.elapsed().as_secs_f64());
    let t = std::time::Instant::now();
    for v in sim::checker::check(&run.history) { println!("VIOLATION {v}"); }
    println!("check {:?}", t.elapsed());
    if let Some(why) = run.failure { println!("{}", run.tail); println!("FAILED {why}"); }
}
