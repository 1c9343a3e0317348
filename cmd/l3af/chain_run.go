package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"l3af"
	"l3af/internal/packet"
	"l3af/internal/pcap"
)

func newChainRun(a *app) *cobra.Command {
	var in, out, file string
	var live bool
	cmd := &cobra.Command{
		Use:   "run HOOK --pcap FILE",
		Short: "Run the packets of a capture through a chain, without attaching it",
		Long: `Run takes every packet of a capture through a copy of the hook's chain, one
after the other, and tells its verdict and which program decided it. With -f it
is the chain that a document has for the hook, which nobody needs to apply.

Nothing at the hook changes: the copy has maps and counters of its own. They
start as the document says; with --live-maps as the hook's maps are now, where
the document does not say it. What only the traffic of a host gives, such as
routes, is that of the hook's network namespace. Redirected packets go nowhere.
A chain that calls bpf_clone_redirect is refused: it would send packets.

The capture is pcap or pcapng, of Ethernet. --out writes the packets as they
leave the chain, whatever their verdict, as pcap.`,
		Example: `  l3af chain run eth0/xdp --pcap in.pcap
  l3af chain run eth0/xdp --pcap in.pcap -f state.yaml --out out.pcap
  tcpdump -c 100 -w - | l3af chain run eth0/tc-ingress --pcap - --live-maps`,
		Args: oneHook,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := hookArg(args[0])
			if err != nil {
				return err
			}
			switch {
			case in == "":
				return &usageError{"no packets: --pcap is missing", "name a capture with --pcap FILE, or read standard input with --pcap -"}
			case in == "-" && file == "-":
				return &usageError{"standard input cannot be both the capture and the document", ""}
			}
			packets, err := a.capture(in)
			if err != nil {
				return err
			}
			req := &l3af.RunRequest{LiveMaps: live, Packets: make([][]byte, len(packets))}
			for i, p := range packets {
				req.Packets[i] = p.Data
			}
			if file != "" {
				if req.State, err = a.document(cmd.Context(), file); err != nil {
					return err
				}
			}
			ran, err := a.client().RunChain(cmd.Context(), h, req)
			if err != nil {
				return err
			}
			if len(ran.Packets) != len(packets) {
				return fmt.Errorf("sent %d packets, the daemon answered for %d", len(packets), len(ran.Packets))
			}
			if out != "" {
				if err := writeCapture(out, packets, ran); err != nil {
					return err
				}
			}
			return a.show(ran, func(bool) error { return printRun(a.out, h, packets, ran) })
		},
	}
	cmd.Flags().StringVar(&in, "pcap", "", "the capture; - reads standard input")
	cmd.Flags().StringVar(&out, "out", "", "write the packets as they leave the chain to this file")
	cmd.Flags().StringVarP(&file, "filename", "f", "", "run the chain that this document has for the hook")
	cmd.Flags().BoolVar(&live, "live-maps", false, "start with what the hook's maps hold now")
	_ = cmd.MarkFlagFilename("pcap", "pcap", "pcapng", "cap")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	return cmd
}

// capture reads the packets of a file; "-" is standard input.
func (a *app) capture(file string) ([]pcap.Packet, error) {
	name, in := file, a.in
	if file == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	// The daemon takes no more; base64 makes it longer.
	r := &io.LimitedReader{R: in, N: maxDocument + 1}
	packets, err := pcap.Read(r)
	if r.N == 0 {
		return nil, &hinted{fmt.Errorf("read %s: longer than %d MiB", name, maxDocument>>20), "take a part of it, as with editcap -r or tcpdump -c"}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return packets, nil
}

// writeCapture writes the packets that were run as they left the chain.
func writeCapture(file string, packets []pcap.Packet, ran *l3af.ChainRun) (err error) {
	left := make([]pcap.Packet, 0, len(packets))
	for i, p := range packets {
		if ran.Packets[i].Error != "" {
			continue
		}
		if data := ran.Packets[i].Data; data != nil {
			p.Data, p.Length = data, len(data)
		}
		left = append(left, p)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = fmt.Errorf("write %s: %w", file, err)
		}
	}()
	return pcap.Write(f, left)
}

func printRun(w io.Writer, h l3af.Hook, packets []pcap.Packet, ran *l3af.ChainRun) error {
	fmt.Fprintf(w, "%s  chain %s  %s\n\n", h, ran.ID, plural(len(packets), "packet"))
	t := newTable("", "PACKET", "VERDICT", "BY", "CHANGED").numbers(0)
	type outcome struct {
		verdict l3af.Verdict
		program string
	}
	sums := map[outcome]int{}
	failed := 0
	for i, p := range ran.Packets {
		row := []string{fmt.Sprint(i + 1), packet.Describe(packets[i].Data)}
		if p.Error != "" {
			failed++
			t.add(append(row, "-", "-", p.Error)...)
			continue
		}
		verdict := string(p.Verdict)
		if p.Verdict == l3af.Other {
			verdict = fmt.Sprintf("other (%d)", p.Code)
		}
		changed := ""
		switch before := len(packets[i].Data); {
		case p.Data != nil && p.Length != before:
			changed = fmt.Sprintf("%d -> %d bytes", before, p.Length)
		case p.Data != nil:
			changed = "yes"
		}
		t.add(append(row, verdict, p.Program, changed)...)
		sums[outcome{p.Verdict, p.Program}]++
	}
	if err := t.print(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	sum := newTable("PROGRAM", "RUNS", "VERDICTS", "DECIDED").numbers(1)
	for _, p := range ran.Programs {
		var decided []string
		for _, v := range append(h.Kind.Verdicts(), l3af.Other) {
			if n := sums[outcome{v, p.Name}]; n > 0 {
				decided = append(decided, fmt.Sprintf("%s %d", v, n))
			}
		}
		sum.add(p.Name, fmt.Sprint(p.Packets), dash(verdicts(h.Kind, p.Verdicts)), dash(strings.Join(decided, ", ")))
	}
	if err := sum.print(w); err != nil {
		return err
	}
	notes := slices.Clone(ran.Notes)
	if failed > 0 {
		notes = append(notes, plural(failed, "packet")+" could not be run")
	}
	cut := 0
	for _, p := range packets {
		if p.Length > len(p.Data) {
			cut++
		}
	}
	if cut > 0 {
		notes = append(notes, plural(cut, "packet")+" ran shorter than on the wire: the capture was cut (tcpdump -s 0 keeps all)")
	}
	if len(notes) > 0 {
		fmt.Fprintln(w)
	}
	for _, n := range notes {
		fmt.Fprintln(w, "note: "+n)
	}
	return nil
}
