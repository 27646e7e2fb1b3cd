package cli

import (
	"context"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
)

// eventsKind is what `weir get` calls events.
const eventsKind = "Event"

// eventsWait is how long one request waits for news.
const eventsWait = 20 * time.Second

// events shows what happened to objects, and with watch what happens.
func (a *app) events(ctx context.Context, c *client.Client, t target, everywhere, watch bool, format string) error {
	namespace := t.namespace
	if everywhere {
		namespace = ""
	}
	e, err := c.Events(ctx, 0, 0, "", namespace, t.name)
	if err != nil {
		return err
	}
	if format != asTable && !watch {
		return a.out.emit(format, e.Events)
	}
	if len(e.Events) == 0 && !watch {
		a.errs.printf("no events\n")
		return nil
	}
	show := func(list []apiv1.Event) error {
		for _, x := range list {
			if format != asTable {
				if err := a.out.emit(format, x); err != nil {
					return err
				}
				continue
			}
			a.event(x)
		}
		return nil
	}
	if !watch {
		a.eventTable(e.Events)
		return nil
	}
	for {
		if err := show(e.Events); err != nil {
			return err
		}
		next, err := c.Events(ctx, e.Next, eventsWait, "", namespace, t.name)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		e = next
	}
}

func (a *app) eventTable(list []apiv1.Event) {
	t := newTable("TIME", "EVENT", "OBJECT", "PROXY", "MESSAGE")
	for _, e := range list {
		t.add(text(e.Time.Local().Format("15:04:05.000")), cell{e.Type, eventColor(e.Type)}, text(object(e.Kind, e.Namespace, e.Name)), text(e.Proxy), text(message(e)))
	}
	a.out.print(t)
}

// event is one line of a stream, whose columns cannot know what is to come.
func (a *app) event(e apiv1.Event) {
	line := e.Time.Local().Format("15:04:05.000") + " " + a.out.paint(eventColor(e.Type), clean(e.Type)) + " " + clean(object(e.Kind, e.Namespace, e.Name))
	if e.Proxy != "" {
		line += " " + clean(e.Proxy)
	}
	if m := message(e); m != "" {
		line += ": " + clean(m)
	}
	a.out.printf("%s\n", line)
}

func message(e apiv1.Event) string {
	if e.Count > 1 {
		return e.Message + " (" + count(e.Count, "time") + ")"
	}
	return e.Message
}

func eventColor(what string) color {
	switch what {
	case "compiled", "active":
		return green
	case "quarantined", "unenforced", "rejected":
		return red
	}
	return dim
}
