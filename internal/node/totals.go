package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"l3af"
	"l3af/internal/chain"
	"l3af/internal/host"
)

// totals are the counts of chains that were replaced. A counter map that the
// kernel still has is either folded into them or added to them when they are
// read, never both: folded says which, and is written in the same file.
type totals struct {
	kernel Kernel
	disk   disk
	path   string

	mu   sync.Mutex // held while maps are read, folded and dropped: readers see before or after
	data totalsFile
	// shown is what readers were told. A program's first proceed verdict is
	// derived from other counters that are not read at one instant, so what
	// is read can lag by the packets under way; nothing told ever shrinks.
	shown map[host.Target]map[string]count
}

// totalsFile is counters.json.
type totalsFile struct {
	Boot   string   `json:"boot"` // map ids never repeat within one boot
	Folded []uint32 `json:"folded,omitempty"`
	// Totals are the counts by target and program.
	Totals map[string]map[string]count `json:"totals,omitempty"`
}

type count struct {
	Packets  uint64                  `json:"packets"`
	Verdicts map[l3af.Verdict]uint64 `json:"verdicts,omitempty"`
}

func (c count) plus(more chain.Count) count {
	sum := count{Packets: c.Packets + more.Packets, Verdicts: maps.Clone(c.Verdicts)}
	if sum.Verdicts == nil {
		sum.Verdicts = map[l3af.Verdict]uint64{}
	}
	for v, n := range more.Verdicts {
		if n != 0 {
			sum.Verdicts[v] += n
		}
	}
	return sum
}

// openTotals reads the totals of earlier runs. A damaged file is moved aside
// and counts begin anew: damage then says so.
func openTotals(k Kernel, d disk, path string) (t *totals, damage error, err error) {
	t = &totals{kernel: k, disk: d, path: path, shown: map[host.Target]map[string]count{}}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, nil, err
	default:
		if damage = decode(text, &t.data); damage != nil {
			damage = fmt.Errorf("%s is damaged: %w; moved aside to %s.damaged, counts begin anew", path, damage, path)
			t.data = totalsFile{}
			if err := d.rename(path, path+".damaged"); err != nil {
				return nil, nil, err
			}
		}
	}
	if boot := k.Boot(); t.data.Boot != boot {
		t.data.Boot, t.data.Folded = boot, nil
	}
	return t, damage, nil
}

// save makes next the totals. On error the totals stay as they were.
func (t *totals) save(next totalsFile) error {
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := t.disk.write(t.path, append(text, '\n')); err != nil {
		return fmt.Errorf("write counters: %w", err)
	}
	t.data = next
	return nil
}

func (t *totals) next() totalsFile {
	next := t.data
	next.Folded = slices.Clone(next.Folded)
	next.Totals = maps.Clone(next.Totals)
	if next.Totals == nil {
		next.Totals = map[string]map[string]count{}
	}
	return next
}

// settling is a target whose counts are to be folded, and what it keeps.
type settling struct {
	target host.Target
	keep   *chain.Chain
}

// fold moves the counts of every chain that no longer runs at the targets into
// the totals, exactly once, and forgets programs that left. It returns an error
// or nil for each.
func (t *totals) fold(all []settling) []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	errs := make([]error, len(all))
	replaced := make([][]host.Counts, len(all))
	next, changed := t.next(), false
	for i, s := range all {
		counts, err := t.kernel.Counts(s.target, true)
		if err != nil {
			errs[i] = fmt.Errorf("read counters of %s: %w", s.target, err)
			continue
		}
		replaced[i] = slices.DeleteFunc(counts, func(c host.Counts) bool { return c.ID == s.keep.ID })
		changed = next.fold(s, replaced[i]) || changed
	}
	if changed {
		if err := t.save(next); err != nil {
			for i := range errs {
				errs[i] = err
			}
			return errs
		}
	}
	for i, s := range all {
		if errs[i] != nil {
			continue
		}
		maps.DeleteFunc(t.shown[s.target], func(name string, _ count) bool { return !s.stays(name) })
		errs[i] = t.drop(s.target, replaced[i])
	}
	return errs
}

func (s settling) stays(program string) bool {
	return slices.ContainsFunc(s.keep.Programs, func(p chain.Linked) bool { return p.Name == program })
}

// fold adds what replaced chains counted, and reports whether that changed
// anything. f is what next gave.
func (f *totalsFile) fold(s settling, replaced []host.Counts) (changed bool) {
	sums := map[string]count{}
	for name, c := range f.Totals[s.target.String()] {
		if s.stays(name) {
			sums[name] = c
		} else {
			changed = true
		}
	}
	for _, c := range replaced {
		if slices.Contains(f.Folded, c.MapID) {
			continue
		}
		for _, p := range c.Programs {
			if s.stays(p.Name) {
				sums[p.Name] = sums[p.Name].plus(p)
			}
		}
		f.Folded = append(f.Folded, c.MapID)
		changed = true
	}
	if changed {
		setOrDelete(f.Totals, s.target.String(), sums)
	}
	return changed
}

// drop removes counters that are folded. The file may name them a while
// longer: their ids do not come back.
func (t *totals) drop(target host.Target, folded []host.Counts) error {
	for _, c := range folded {
		if err := t.kernel.DropCounts(target, c.ID); err != nil {
			return fmt.Errorf("drop counters of chain %s of %s: %w", c.ID, target, err)
		}
		t.data.Folded = slices.DeleteFunc(t.data.Folded, func(id uint32) bool { return id == c.MapID })
	}
	return nil
}

// dropFolded removes the counters of a target that a crash left between
// folding and dropping. Before an attach it must be done: the chain could
// otherwise take up counters whose counts are in the totals already.
func (t *totals) dropFolded(target host.Target) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.data.Folded) == 0 {
		return nil
	}
	counts, err := t.kernel.Counts(target, false)
	if err != nil {
		return fmt.Errorf("read counters of %s: %w", target, err)
	}
	return t.drop(target, slices.DeleteFunc(counts, func(c host.Counts) bool {
		return !slices.Contains(t.data.Folded, c.MapID)
	}))
}

// remove takes away the totals and all pins of a target whose chain is removed.
// The pins go last: as long as there are any, a restart ends this.
func (t *totals) remove(target host.Target) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.retain(func(name string) bool { return name != target.String() }); err != nil {
		return err
	}
	if err := t.kernel.Tidy(target, nil); err != nil {
		return err
	}
	delete(t.shown, target)
	return nil
}

// retainOnly removes the totals of targets that are not among live.
func (t *totals) retainOnly(live map[string]bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.retain(func(name string) bool { return live[name] })
}

func (t *totals) retain(keep func(target string) bool) error {
	next := t.next()
	maps.DeleteFunc(next.Totals, func(name string, _ map[string]count) bool { return !keep(name) })
	if len(next.Totals) == len(t.data.Totals) {
		return nil
	}
	return t.save(next)
}

// counted is what all chains of a target counted.
type counted struct {
	sums map[string]count // by program
	live []host.Counts    // of the maps that are not folded
}

// read adds up what a target's programs counted, folded or not. t.mu is held.
func (t *totals) read(target host.Target) (counted, error) {
	live, err := t.kernel.Counts(target, false)
	if err != nil {
		return counted{}, fmt.Errorf("read counters of %s: %w", target, err)
	}
	r := counted{sums: map[string]count{}}
	maps.Copy(r.sums, t.data.Totals[target.String()])
	for _, c := range live {
		if slices.Contains(t.data.Folded, c.MapID) {
			continue
		}
		r.live = append(r.live, c)
		for _, p := range c.Programs {
			r.sums[p.Name] = r.sums[p.Name].plus(p)
		}
	}
	return r, nil
}

// show is read for people: what they were told before is the least they are told.
func (t *totals) show(target host.Target) (counted, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := t.read(target)
	if err != nil {
		return r, err
	}
	shown := t.shown[target]
	if shown == nil {
		shown = map[string]count{}
		t.shown[target] = shown
	}
	for name, c := range r.sums {
		told := shown[name]
		c = count{Packets: max(c.Packets, told.Packets), Verdicts: maps.Clone(c.Verdicts)}
		if c.Verdicts == nil {
			c.Verdicts = map[l3af.Verdict]uint64{}
		}
		for v, n := range told.Verdicts {
			c.Verdicts[v] = max(c.Verdicts[v], n)
		}
		r.sums[name], shown[name] = c, c
	}
	return r, nil
}

func setOrDelete(m map[string]map[string]count, key string, v map[string]count) {
	if len(v) == 0 {
		delete(m, key)
		return
	}
	m[key] = v
}
