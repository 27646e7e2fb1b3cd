package manifest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/inject"
)

// child is the value of a field, made if it is not there or null.
func child(n *yaml.Node, name string) *yaml.Node {
	n.Style &^= yaml.FlowStyle // what is added is too much for one line
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			v := n.Content[i+1]
			if v.Kind == yaml.ScalarNode && v.ShortTag() == "!!null" {
				*v = yaml.Node{Kind: yaml.MappingNode}
			}
			return v
		}
	}
	v := &yaml.Node{Kind: yaml.MappingNode}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, v)
	return v
}

// apply does one operation of a JSON patch. Mappings on the way are made, where an API
// server would have them already.
func apply(n *yaml.Node, op inject.Op) error {
	segments := strings.Split(strings.TrimPrefix(op.Path, "/"), "/")
	for i, s := range segments {
		segments[i] = strings.ReplaceAll(strings.ReplaceAll(s, "~1", "/"), "~0", "~")
	}
	last := segments[len(segments)-1]
	for _, s := range segments[:len(segments)-1] {
		switch n.Kind {
		case yaml.MappingNode:
			n = child(n, s)
		case yaml.SequenceNode:
			i, err := strconv.Atoi(s)
			if err != nil || i < 0 || i >= len(n.Content) {
				return fmt.Errorf("there is no entry %s", s)
			}
			n.Style &^= yaml.FlowStyle
			n = n.Content[i]
		default:
			return errors.New("a value is no mapping and no list")
		}
	}
	n.Style &^= yaml.FlowStyle
	var value *yaml.Node
	if op.Op != "remove" {
		text, err := sigsyaml.Marshal(op.Value)
		if err != nil {
			return err
		}
		var d yaml.Node
		if err := yaml.Unmarshal(text, &d); err != nil {
			return err
		}
		value = d.Content[0]
	}
	if n.Kind == yaml.SequenceNode {
		i, err := strconv.Atoi(last)
		if err != nil || i < 0 || i > len(n.Content) || i == len(n.Content) && op.Op != "add" {
			return fmt.Errorf("there is no entry %s", last)
		}
		switch op.Op {
		case "add":
			n.Content = slices.Insert(n.Content, i, value)
		case "replace":
			n.Content[i] = value
		case "remove":
			n.Content = slices.Delete(n.Content, i, i+1)
		}
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return errors.New("a value is no mapping and no list")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != last {
			continue
		}
		if op.Op == "remove" {
			n.Content = slices.Delete(n.Content, i, i+2)
		} else {
			n.Content[i+1] = value
		}
		return nil
	}
	if op.Op != "add" {
		return fmt.Errorf("there is no field %s", last)
	}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: last}, value)
	return nil
}
