package state

import (
	"fmt"
	"maps"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// found is the configuration of a filter that has it in its place, or by ECDS under its name: then the listener waits
// for it. It comes with its type, and out of its TypedStruct (opened). Where there is a default the server's word that there is none is enough, or nothing, as
// apply_default_config_without_warming says.
func (b *Builder) found(name string, here *anypb.Any, d *corev3.ExtensionConfigSource, path string) (url string, config *anypb.Any, err error) {
	if d == nil {
		return opened(here, path)
	}
	path += ".config_discovery"
	if c := d.GetConfigSource(); c.GetAds() == nil {
		return "", nil, fmt.Errorf("%s.config_source: only ads is supported", path)
	}
	if !slices.Contains(b.uses.extensions, name) {
		b.uses.extensions = append(b.uses.extensions, name)
	}
	x := b.extensions[name]
	if x == nil && (d.GetApplyDefaultConfigWithoutWarming() || b.noExtension[name]) {
		x = d.GetDefaultConfig()
	}
	if x == nil {
		return "", nil, fmt.Errorf("%s: extension configuration %q %w", path, name, errAwaited)
	}
	if url, config, err = opened(x, path); err != nil {
		return "", nil, err
	}
	if want := d.GetTypeUrls(); len(want) > 0 && !slices.ContainsFunc(want, func(w string) bool { return w == url || typePrefix+w == url }) {
		return "", nil, fmt.Errorf("%s: extension configuration %q is of type %s, which is not one of type_urls", path, name, url)
	}
	return url, config, nil
}

// applyExtensions takes configurations of filters (ECDS). What is wrong with one is wrong with the listeners that use
// it, so it is refused there and they stay as they were.
func (b *Builder) applyExtensions(next *State, u Update) error {
	if err := b.room(len(b.extensions), len(u.Set), "extension configurations"); err != nil {
		return err
	}
	set, err := decodeAll(u, func(_, _ string, m *corev3.TypedExtensionConfig) (*anypb.Any, error) {
		path := "extension configuration " + m.GetName()
		if err := check(m, path); err != nil {
			return nil, err
		}
		if m.GetTypedConfig() == nil {
			return nil, fmt.Errorf("%s.typed_config: is missing", path)
		}
		return m.GetTypedConfig(), nil
	})
	if err != nil {
		return err
	}
	before, none := b.extensions, b.noExtension
	b.extensions, b.noExtension = merged(before, set, u.Removed), maps.Clone(none)
	for _, n := range u.Absent {
		b.noExtension[n] = true
	}
	maps.DeleteFunc(b.noExtension, func(n string, _ bool) bool { return set[n] != nil })
	if err := b.again(next, func(l *Listener) bool {
		return slices.ContainsFunc(l.Extensions, func(n string) bool { return set[n] != nil || slices.Contains(u.Removed, n) })
	}); err != nil {
		b.extensions, b.noExtension = before, none
		return err
	}
	return nil
}
