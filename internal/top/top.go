// Package top measures how much the programs of the kernel run, look after
// look, and shows it on a terminal.
package top

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af"
	"l3af/internal/bpfsys"
	"l3af/internal/chain"
	"l3af/internal/inspect"
	"l3af/internal/kernel"
)

// Look is what programs did since the look before.
type Look struct {
	Time     time.Time `json:"time"`
	Seconds  float64   `json:"seconds"` // since the look before; 0: this is the first, which knows no rates
	Programs []Row     `json:"programs"`
}

// Row is one program.
type Row struct {
	ID       uint32           `json:"id"`
	Type     inspect.TypeName `json:"type"`
	Name     string           `json:"name"`
	RunCnt   uint64           `json:"run_cnt"` // since it was loaded, for as long as somebody measured
	Runs     float64          `json:"runs_per_second"`
	NsPerRun float64          `json:"ns_per_run"` // 0: it did not run
	CPU      float64          `json:"cpu"`        // CPUs that it kept busy: 1 is one
	Chain    *Chain           `json:"chain,omitempty"`
}

// Chain is what a chain of ours counts by itself.
type Chain struct {
	ID       string   `json:"id"`
	At       []string `json:"at,omitempty"` // the hooks: xdp/eth0
	Drops    float64  `json:"drops_per_second"`
	Programs []Member `json:"programs,omitempty"` // in order; none for a segment behind the first
}

// Member is a program of a chain.
type Member struct {
	Name  string  `json:"name"`
	Runs  float64 `json:"runs_per_second"`
	Drops float64 `json:"drops_per_second"`
}

// Sampler looks at programs. While it is open the kernel measures run time,
// which costs every run of every program some 70 ns.
type Sampler struct {
	stats io.Closer
	known map[uint32]*program
	last  time.Time
}

// program is what is known of one from look to look.
type program struct {
	row      Row
	maps     []uint32
	runTime  uint64 // ns
	counters *kernel.Counters
	counted  *ebpf.Map
	counts   []chain.Count
	seen     time.Time
}

// Open switches the kernel's statistics on. The caller closes the sampler,
// which switches them off unless somebody else wants them.
func Open() (*Sampler, error) {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return nil, fmt.Errorf("switch statistics on: %w", err)
	}
	return &Sampler{stats: stats, known: map[uint32]*program{}}, nil
}

// Close ends the measurements.
func (s *Sampler) Close() error {
	for _, p := range s.known {
		p.close()
	}
	return s.stats.Close()
}

func (p *program) close() {
	if p.counted != nil {
		p.counted.Close()
	}
}

// Look reads what all programs did since the last look, in the order of their
// ids. What appeared meanwhile has no rates yet.
func (s *Sampler) Look() (*Look, error) {
	now := time.Now()
	l := &Look{Time: now, Programs: []Row{}}
	if !s.last.IsZero() {
		l.Seconds = now.Sub(s.last).Seconds()
	}
	r := &resolver{}
	for id, ok, err := bpfsys.NextID(bpfsys.Prog, 0); ok || err != nil; id, ok, err = bpfsys.NextID(bpfsys.Prog, id) {
		if err != nil {
			return nil, err
		}
		p, err := s.program(id, l.Seconds, r)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p.seen = now
		l.Programs = append(l.Programs, p.row)
	}
	for id, p := range s.known {
		if !p.seen.Equal(now) {
			p.close()
			delete(s.known, id)
		}
	}
	s.last = now
	return l, nil
}

func (s *Sampler) program(id uint32, seconds float64, r *resolver) (*program, error) {
	o, err := bpfsys.ByID(bpfsys.Prog, id, 0)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	var info bpfsys.ProgInfo
	if err := bpfsys.Info(o, &info); err != nil && !errors.Is(err, unix.ENODEV) { // its device is gone
		return nil, fmt.Errorf("program %d: %w", id, err)
	}
	p := s.known[id]
	if p == nil {
		if p, err = r.resolve(id); err != nil {
			return nil, err
		}
		s.known[id] = p
		seconds = 0
	} else if c := p.row.Chain; c != nil && len(c.At) == 0 {
		// A chain is attached after it was loaded.
		if again, err := r.program(id); err == nil && again.Chain != nil {
			c.At = again.Chain.At
		}
	}
	p.update(&info, seconds)
	return p, nil
}

// update takes over what the kernel says now. Without seconds there are no rates.
func (p *program) update(info *bpfsys.ProgInfo, seconds float64) {
	runs, ns := info.RunCount-p.row.RunCnt, info.RunTime-p.runTime
	p.row.RunCnt, p.runTime = info.RunCount, info.RunTime
	p.row.Runs, p.row.NsPerRun, p.row.CPU = 0, 0, 0
	if seconds > 0 && runs > 0 {
		p.row.Runs, p.row.NsPerRun, p.row.CPU = float64(runs)/seconds, float64(ns)/float64(runs), float64(ns)/1e9/seconds
	}
	if p.counters == nil {
		return
	}
	counts, err := p.counters.Read()
	if err != nil {
		return
	}
	// What was given out stays as it is.
	c := *p.row.Chain
	c.Drops, c.Programs = 0, make([]Member, len(counts))
	for i, now := range counts {
		c.Programs[i].Name = now.Name
		if seconds > 0 && i < len(p.counts) {
			c.Programs[i].Runs = float64(now.Packets-p.counts[i].Packets) / seconds
			c.Programs[i].Drops = float64(dropped(now)-dropped(p.counts[i])) / seconds
			c.Drops += c.Programs[i].Drops
		}
	}
	p.row.Chain, p.counts = &c, counts
}

// dropped is how many packets a program has dropped.
func dropped(c chain.Count) uint64 {
	return c.Verdicts[l3af.Drop] + c.Verdicts[l3af.Aborted] + c.Verdicts[l3af.Shot]
}

// resolver says what programs are, for one look.
type resolver struct {
	ours *inspect.Ours
	read bool
}

func (r *resolver) program(id uint32) (*inspect.Program, error) {
	if !r.read {
		// Without them chains are programs as any.
		r.ours, _ = inspect.ReadOurs()
		r.read = true
	}
	list, err := inspect.Programs(inspect.Selector{By: inspect.ID, ID: id}, inspect.Options{Ours: r.ours})
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

func (r *resolver) resolve(id uint32) (*program, error) {
	is, err := r.program(id)
	if err != nil {
		return nil, err
	}
	p := &program{row: Row{ID: id, Type: is.Type, Name: is.Name}, maps: is.MapIDs}
	title, _, _ := strings.Cut(is.Name, "__")
	chainID, ours := strings.CutPrefix(title, chain.NamePrefix)
	if !ours {
		return p, nil
	}
	if err := p.findCounters(); err != nil || p.counted == nil {
		return p, err
	}
	chainID, segment, _ := strings.Cut(chainID, "_")
	p.row.Chain = &Chain{ID: chainID}
	if is.Chain != nil {
		p.row.Chain.At = is.Chain.At
	}
	if segment != "" { // the first counts for all
		p.counters = nil
	}
	return p, nil
}

// findCounters opens the counters of a chain among the maps of its program.
func (p *program) findCounters() error {
	for _, id := range p.maps {
		which := inspect.Selector{By: inspect.ID, ID: id}
		maps, err := inspect.Maps(which, inspect.Options{})
		if errors.Is(err, fs.ErrNotExist) || err == nil && maps[0].Name != chain.CountersType {
			continue
		}
		if err != nil {
			return err
		}
		list, err := inspect.OpenMaps(which)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		c, err := kernel.OpenCounters(list[0])
		if err != nil { // somebody else's of that name
			list[0].Close()
			continue
		}
		p.counters, p.counted = c, list[0]
		return nil
	}
	return nil
}
