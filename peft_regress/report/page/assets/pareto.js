// The points that no other beats: no other costs as little or less and gains as much or more,
// one of the two strictly. points: [{cost, gain}]; returned from the cheapest on.
function paretoFront(points) {
  const front = [];
  const byCost = d3.sort(points, (a, b) => a.cost - b.cost || b.gain - a.gain);
  for (const point of byCost) {
    const best = front.at(-1);
    if (!best || point.gain > best.gain || (point.gain === best.gain && point.cost === best.cost)) {
      front.push(point);
    }
  }
  return front;
}
