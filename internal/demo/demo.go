// Package demo shows what l3af does on a machine of its own: two network
// namespaces joined by a veth pair, a real l3afd, and real traffic.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"l3af"
	"l3af/client"
)

// Options say how the demo runs.
type Options struct {
	Out      io.Writer
	Terminal bool          // Out is one: tables are redrawn in place
	Keep     bool          // leave everything running at the end
	Time     time.Duration // about how long it takes
	Command  string        // how to call this program, for the advice of Keep
	// Daemon gives the path of l3afd. It may put it into dir, which goes with the demo.
	Daemon func(ctx context.Context, dir string) (string, error)
}

// Who sends, to 192.0.2.1 and 2001:db8::1.
var (
	friend4 = netip.MustParseAddr("192.0.2.10")
	friend6 = netip.MustParseAddr("2001:db8::10")
	denied4 = netip.MustParseAddr("203.0.113.7")
	denied6 = netip.MustParseAddr("2001:db8:bad::7")
	flood4  = netip.MustParseAddr("198.51.100.9")
	flood6  = netip.MustParseAddr("2001:db8:f::9")
	steady4 = netip.MustParseAddr("192.0.2.20")
	steady6 = netip.MustParseAddr("2001:db8::20")

	to4 = netip.MustParseAddrPort("192.0.2.1:5000")
	to6 = netip.MustParseAddrPort("[2001:db8::1]:5000")
)

// show is a run of the demo.
type show struct {
	Options
	screen *screen
	m      *machine
	client *client.Client
}

// Run shows the demo. Whatever happens, and when ctx ends, it takes away what
// it made, unless it is told to keep it. It returns an error when a packet
// was lost by a change of the chain.
func Run(ctx context.Context, o Options) (err error) {
	if err := Check(); err != nil {
		return err
	}
	s := &show{Options: o, screen: &screen{w: o.Out, terminal: o.Terminal}, m: &machine{}}
	kept := false
	defer func() {
		if kept {
			return
		}
		s.screen.say("cleaning up: l3afd, the namespaces, the bpffs, %s", s.m.Dir)
		err = errors.Join(err, s.m.remove())
	}()
	s.screen.say("making two network namespaces, joined by a veth pair, and starting l3afd …")
	if err := s.m.build(); err != nil {
		return err
	}
	s.client = &client.Client{Socket: s.m.socket()}
	l3afd, err := o.Daemon(ctx, s.m.Dir)
	if err != nil {
		return err
	}
	if err := s.m.start(ctx, l3afd, func(ctx context.Context) error {
		_, err := s.client.Status(ctx)
		return err
	}); err != nil {
		return err
	}
	if err := s.filter(ctx, o.Time*2/5); err != nil {
		return err
	}
	if err := s.change(ctx, o.Time*9/20); err != nil {
		return err
	}
	if o.Keep {
		if err := s.m.write(); err != nil {
			return err
		}
		kept = true
		s.advise()
	}
	return nil
}

// filter shows what the chain lets through and drops.
func (s *show) filter(ctx context.Context, length time.Duration) error {
	first := wanted{order: []string{acl, ratelimit, stats}, rate: slowRate, burst: slowBurst}
	applied, err := s.apply(ctx, first)
	if err != nil {
		return err
	}
	s.screen.say("applied revision %d to %s in the namespace %s: acl -> ratelimit -> stats,", applied.Revision, device, s.m.Receiver)
	s.screen.say("fused into one XDP program. acl denies %s and %s,", deniedPrefix4, deniedPrefix6)
	s.screen.say("ratelimit lets each address send %d packets/s. Now the traffic:", slowRate)
	s.screen.say("")

	flows := []*flow{
		{name: "allowed", from: friend4, to: to4, rate: 300},
		{name: "allowed", from: friend6, to: to6, rate: 300},
		{name: "denied", from: denied4, to: to4, rate: 200},
		{name: "denied", from: denied6, to: to6, rate: 200},
		{name: "too fast", from: flood4, to: to4, rate: 4 * slowRate},
		{name: "too fast", from: flood6, to: to6, rate: 4 * slowRate},
	}
	every := 250 * time.Millisecond
	if !s.Terminal {
		every = length * 2 / 5
	}
	start := time.Now()
	if _, err := s.traffic(ctx, flows, length, every, func() error {
		text, err := s.table(ctx, flows, time.Since(start))
		if err == nil {
			s.screen.draw(text)
		}
		return err
	}); err != nil {
		return err
	}
	for _, f := range flows {
		sent, arrived, _ := f.counts()
		if ok := map[string]bool{
			"allowed":  arrived > 0,
			"denied":   arrived == 0,
			"too fast": arrived > 0 && arrived < sent,
		}[f.name]; !ok {
			return fmt.Errorf("the chain did not filter: of %d packets from %s (%s), %d arrived", sent, f.from, f.name, arrived)
		}
	}
	return nil
}

// traffic sends the flows for some time and calls look every now and then and
// at the end, when all that comes has come. It returns what the receiving
// socket and the veth pair lost for want of room.
func (s *show) traffic(ctx context.Context, flows []*flow, length, every time.Duration, look func() error) (overflow uint64, err error) {
	var r *receiver
	if err := in(s.m.Receiver, func() (err error) {
		r, err = listen(to4.Port(), flows)
		return err
	}); err != nil {
		return 0, err
	}
	defer r.close()
	if err := in(s.m.Sender, func() error {
		for _, f := range flows {
			if err := f.open(); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return 0, err
	}
	defer func() {
		for _, f := range flows {
			f.conn.Close()
		}
	}()
	before, err := s.m.lost()
	if err != nil {
		return 0, err
	}

	sending, stop := context.WithTimeout(ctx, length)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- send(sending, flows) }()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				return 0, err
			}
			running = false
		case <-tick.C:
			if err := look(); err != nil {
				stop()
				<-done
				return 0, err
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	settle(flows)
	if err := look(); err != nil {
		return 0, err
	}
	full, err := r.overflowed()
	if err != nil {
		return 0, err
	}
	after, err := s.m.lost()
	return full + after - before, err
}

// settle waits until nothing comes any more.
func settle(flows []*flow) {
	total := func() (n uint64) {
		for _, f := range flows {
			_, arrived, duplicated := f.counts()
			n += arrived + duplicated
		}
		return n
	}
	for last, quiet := total(), 0; quiet < 5; {
		time.Sleep(20 * time.Millisecond)
		quiet++
		if now := total(); now != last {
			last, quiet = now, 0
		}
	}
}

// table is what the chain did and what came of the traffic.
func (s *show) table(ctx context.Context, flows []*flow, at time.Duration) (string, error) {
	st, err := s.client.Status(ctx)
	if err != nil {
		return "", err
	}
	c, err := running(st)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %s on %s (%s), chain %s, program %d, after %.1f s\n\n", c.Hook, c.Interface, c.Mode, c.ID, c.ProgramID, at.Seconds())
	rows := [][]string{{"PROGRAM", "PACKETS", "LET THROUGH", "DROPPED"}}
	for _, p := range c.Programs {
		rows = append(rows, []string{p.Name, count(p.Packets), count(p.Verdicts[l3af.Pass]), count(p.Packets - p.Verdicts[l3af.Pass])})
	}
	b.WriteString(columns(rows) + "\n")
	rows = [][]string{{"TRAFFIC", "FROM", "SENT", "ARRIVED"}}
	for _, f := range flows {
		sent, arrived, _ := f.counts()
		rows = append(rows, []string{f.name, f.from.String(), count(sent), count(arrived)})
	}
	b.WriteString(columns(rows) + "\n")
	return b.String(), nil
}

// running is the one chain of the demo, which must run.
func running(st *l3af.Status) (*l3af.ChainStatus, error) {
	if len(st.Chains) != 1 {
		return nil, fmt.Errorf("status has %d chains", len(st.Chains))
	}
	if c := &st.Chains[0]; c.State == l3af.Running {
		return c, nil
	}
	return nil, fmt.Errorf("the chain is %s: %s", st.Chains[0].State, st.Chains[0].Error)
}

// advise says what to try with the machine that is left running.
func (s *show) advise() {
	s.screen.say("\nIt runs on. Try:")
	for _, what := range []string{"status --watch", "get", "history", "rollback", "events"} {
		s.screen.say("  %s --socket %s %s", s.Command, s.m.socket(), what)
	}
	has := func(tool string) bool {
		_, err := exec.LookPath(tool)
		return err == nil
	}
	if has("ip") {
		s.screen.say("  ip netns exec %s ip link show %s", s.m.Receiver, device)
	}
	if has("ip") && has("ping") {
		for _, from := range []netip.Addr{friend4, denied4} {
			s.screen.say("  ip netns exec %s ping -c 3 -I %s %s", s.m.Sender, from, to4.Addr())
		}
	}
	if has("bpftool") {
		s.screen.say("  bpftool prog show")
	}
	s.screen.say("The log of l3afd is %s. Stop it with:", s.m.log())
	s.screen.say("  %s demo --stop %s", s.Command, s.m.Dir)
}
