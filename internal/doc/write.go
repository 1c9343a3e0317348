package doc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// YAML prints a tree, or a struct by its JSON tags, for people to read. The
// keys of a struct stay in its order, those of a map are sorted. [Parse] reads
// the same tree back.
func YAML(v any) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("print YAML: %w", err)
	}
	dec := json.NewDecoder(&text)
	dec.UseNumber()
	root, err := toNode(dec)
	if err != nil {
		return nil, fmt.Errorf("print YAML: %w", err)
	}
	var out bytes.Buffer
	w := yaml.NewEncoder(&out)
	w.SetIndent(2)
	w.CompactSeqIndent()
	if err := w.Encode(root); err != nil {
		return nil, fmt.Errorf("print YAML: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("print YAML: %w", err)
	}
	return out.Bytes(), nil
}

func toNode(dec *json.Decoder) (*yaml.Node, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t := tok.(type) {
	case nil:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(t)}, nil
	case json.Number:
		return numberNode(string(t)), nil
	case string:
		return stringNode(t), nil
	case json.Delim:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		if t == '{' {
			n = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		}
		for dec.More() {
			e, err := toNode(dec)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, e)
		}
		if _, err := dec.Token(); err != nil {
			return nil, err
		}
		if short(n) {
			n.Style = yaml.FlowStyle
		}
		return n, nil
	}
	return nil, fmt.Errorf("unexpected %T", tok)
}

// numberNode keeps a number as it is written where YAML reads it as the same
// number, and as a float of YAML's own otherwise (1e400 has none).
func numberNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: s}
	if tag := n.ShortTag(); tag != "!!int" && tag != "!!float" {
		n.Tag, n.Style = "!!float", yaml.TaggedStyle
	}
	return n
}

func stringNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	plain := (&yaml.Node{Kind: yaml.ScalarNode, Value: s}).ShortTag() == "!!str"
	switch {
	case readable(s):
		n.Style = yaml.LiteralStyle
	case !plain || old[strings.ToLower(s)] || strings.TrimSpace(s) != s || strings.ContainsFunc(s, special):
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// old are the words that readers of YAML 1.1 take for booleans.
var old = map[string]bool{"y": true, "n": true, "yes": true, "no": true, "on": true, "off": true}

// special: not to be written in the open.
func special(r rune) bool { return !unicode.IsPrint(r) || r == '\ufeff' || r == '\ufffd' }

// readable: several lines that YAML keeps as they are in a literal block.
func readable(s string) bool {
	if !strings.Contains(s, "\n") || strings.HasSuffix(s, "\n\n") || strings.TrimSpace(s) == "" {
		return false
	}
	for i, line := range strings.Split(s, "\n") {
		if strings.TrimRight(line, " ") != line || i == 0 && strings.TrimSpace(line) != line ||
			i == 0 && line == "" || strings.ContainsFunc(line, special) {
			return false
		}
	}
	return true
}

// short: better read on one line. These are empty collections, short lists of
// scalars, and the entries of maps.
func short(n *yaml.Node) bool {
	if n.Kind == yaml.MappingNode && len(n.Content) > 0 &&
		(len(n.Content) != 4 || n.Content[0].Value != "key" || n.Content[2].Value != "value") {
		return false
	}
	length := 0
	for _, e := range n.Content {
		if e.Style == yaml.LiteralStyle || e.Kind != yaml.ScalarNode {
			return false
		}
		length += len(e.Value) + 2
	}
	return length <= 80
}
