package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"l3af"
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
leave the chain, whatever their verdict, as pcap. It may be of any length: packets
are read, run and told one after the other.`,
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
			req := &l3af.RunRequest{LiveMaps: live}
			if file != "" {
				if req.State, err = a.document(cmd.Context(), file); err != nil {
					return err
				}
			}
			return a.runCapture(cmd.Context(), h, req, in, out)
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

// captured is a capture on its way through a chain: few of its packets are in
// memory, however long it is.
type captured struct {
	h     l3af.Hook
	name  string // of the capture
	in    *pcap.Reader
	out   *pcap.Writer // nil: nobody wants the packets
	print func(number int, p pcap.Packet, ran l3af.PacketRun) error

	mu   sync.Mutex
	sent []pcap.Packet // whose answer is yet to come

	count, failed, cut int
	sums               map[outcome]int
}

// outcome is who decided what.
type outcome struct {
	verdict l3af.Verdict
	program string
}

// runCapture runs the packets of a file; "-" is standard input.
func (a *app) runCapture(ctx context.Context, h l3af.Hook, req *l3af.RunRequest, in, out string) (err error) {
	c := &captured{h: h, name: in, sums: map[outcome]int{}}
	from := a.in
	if in == "-" {
		c.name = "standard input"
	} else {
		f, err := os.Open(in)
		if err != nil {
			return err
		}
		defer f.Close()
		from = f
	}
	if c.in, err = pcap.NewReader(from); err != nil {
		return fmt.Errorf("read %s: %w", c.name, err)
	}
	if out != "" {
		f, err := os.Create(out)
		if err != nil {
			return err
		}
		defer func() {
			if c.out != nil {
				err = errors.Join(err, wrote(out, c.out.Flush()))
			}
			err = errors.Join(err, wrote(out, f.Close()))
		}()
		if c.out, err = pcap.NewWriter(f); err != nil {
			return wrote(out, err)
		}
	}
	show := a.runPrinter(c)
	c.print = show.packet
	req.Stream, req.Each = c.packets, c.ran
	ran, err := a.client().RunChain(ctx, h, req)
	if err != nil {
		return err
	}
	return show.end(ran)
}

func wrote(file string, err error) error {
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// packets gives the packets of the capture.
func (c *captured) packets(yield func([]byte, error) bool) {
	for {
		p, err := c.in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			yield(nil, fmt.Errorf("read %s: %w", c.name, err))
			return
		}
		c.mu.Lock()
		c.sent = append(c.sent, p)
		c.mu.Unlock()
		if !yield(p.Data, nil) {
			return
		}
	}
}

// ran takes what became of the next packet.
func (c *captured) ran(ran l3af.PacketRun) error {
	c.mu.Lock()
	p := c.sent[0]
	c.sent = c.sent[1:]
	c.mu.Unlock()
	c.count++
	if p.Length > len(p.Data) {
		c.cut++
	}
	if ran.Error != "" {
		c.failed++
	} else {
		c.sums[outcome{ran.Verdict, ran.Program}]++
	}
	if err := c.print(c.count, p, ran); err != nil || c.out == nil || ran.Error != "" {
		return err
	}
	if ran.Data != nil {
		p.Data, p.Length = ran.Data, len(ran.Data)
	}
	return c.out.Write(p)
}
