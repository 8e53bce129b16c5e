// What a pairing costs, as plots and limits have it. of(item, suffix): suffix is of the batch.

const COSTS = [
  {
    value: "memory",
    label: "peak memory",
    unit: "byte",
    batch: true,
    of: (item, suffix) => currentValue(item, `peak_bytes${suffix}`),
  },
  { value: "flops", label: "FLOPs of one update", unit: "flop", batch: true, of: updateFlops },
  {
    value: "trained",
    label: "trained parameters",
    unit: "count",
    of: (item) => currentValue(item, "trainable_params"),
  },
  {
    value: "ship",
    label: "size to ship",
    unit: "byte",
    of: (item) => currentValue(item, "adapter_bytes"),
  },
];

function costNamed(name) {
  return COSTS.find((cost) => cost.value === name);
}
