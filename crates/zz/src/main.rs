use gristmill_core::*;
use gristmill_cpu::*;
use gristmill_engine::*;
use gristmill_ir as ir;
use gristmill_models::*;
fn npy(p: &str) -> Vec<f32> {
    let b = std::fs::read(p).unwrap();
    let h = u16::from_le_bytes([b[8], b[9]]) as usize;
    b[10 + h..].chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let file = &a[1];
    let f32m = a.get(2).map(|s| s == "f32").unwrap_or(true);
    let g = Gguf::open(file).unwrap();
    let kv = if f32m { DType::F32 } else { DType::F16 };
    let m = arch::architecture(&g, arch::KvTypes { k: kv, v: kv }).unwrap();
    let p = m.program().unwrap();
    let o = CpuOptions::from_env().unwrap();
    eprintln!("{:?}", o);
    let cpu = Cpu::new(o).unwrap();
    let t = std::time::Instant::now();
    let eo = EngineOptions {
        context: m.info.context_length.min(2048),
        max_seqs: 4,
        options: ir::Options {
            compute: DType::F32,
            activations: if f32m { ir::Activations::F32 } else { ir::Activations::Int8 },
            batch_invariant: true,
        },
        ..EngineOptions::default()
    };
    let mut e = Engine::new(cpu, p, &mut |d| arch::tensor(d, &g), eo).unwrap();
    eprintln!("load {:?}", t.elapsed());
    if a[3] == "gen" {
        let n: usize = a[4].parse().unwrap();
        let mut r = Request::new(vec![1u32], n);
        r.sampling.temperature = 0.0;
        let t = std::time::Instant::now();
        e.submit(r).unwrap();
        let ev = e.run_to_end().unwrap();
        let ids: Vec<u32> = ev.iter().filter_map(|e| e.token).collect();
        eprintln!("{} tokens {:?}", ids.len(), t.elapsed());
        let gj: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&a[5]).unwrap()).unwrap();
        let want: Vec<u32> = gj["greedy_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_u64().unwrap() as u32)
            .collect();
        let same = ids.iter().zip(&want).take_while(|(a, b)| a == b).count();
        println!("same {same} of {}", want.len());
        let tk = Tokenizer::from_gguf(&g).unwrap();
        println!("{}", tk.decode(&ids));
    } else if a[3] == "logits" {
        let gj: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&a[4]).unwrap()).unwrap();
        let ids: Vec<u32> = gj["prompts"][&a[5]]
            .as_array()
            .or(gj["prompts"][&a[5]]["ids"].as_array())
            .unwrap()
            .iter()
            .map(|v| v.as_u64().unwrap() as u32)
            .collect();
        let want = npy(&a[6]);
        let got = e.logits(&ids, 512).unwrap();
        let d = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        println!("{} {} max diff {d}", got.len(), want.len());
    } else {
        // speed
        let n: u32 = a[4].parse().unwrap();
        let ng: usize = a[5].parse().unwrap();
        for _ in 0..3 {
            let ids: Vec<u32> = (0..n).map(|i| (i * 37 % 1000) + 5).collect();
            let mut r = Request::new(ids, 1);
            r.sampling.temperature = 0.0;
            let t = std::time::Instant::now();
            e.submit(r).unwrap();
            e.run_to_end().unwrap();
            let d = t.elapsed().as_secs_f64();
            let mut r = Request::new(vec![1u32], ng);
            r.sampling.temperature = 0.0;
            let t = std::time::Instant::now();
            e.submit(r).unwrap();
            let c = e.run_to_end().unwrap().len();
            let g = t.elapsed().as_secs_f64();
            println!("pp{n} {:.1} tok/s  tg {c} {:.2} tok/s", n as f64 / d, c as f64 / g);
        }
    }
}
