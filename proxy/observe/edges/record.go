package edges

import (
	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/observe/records"
)

// Record is a record as the control plane is told.
func Record(r *records.Record) *observev1.Record {
	l := &r.Labels
	k := edgeOf(l)
	out := &observev1.Record{
		Id: r.Text(records.ID), TimeUnixNano: uint64(r.Start.UnixNano()), Cause: name(r.Cause), Flags: flags(l.Flags), Status: uint32(l.Status),
		Edge:    edge(&k, &value{}, &value{}),
		TraceId: r.Text(records.Trace), Protocol: l.Protocol, Method: r.Text(records.Method), Authority: r.Text(records.Authority), Path: r.Text(records.Path),
		GrpcStatus: int32(l.GRPCStatus), Details: r.Details, Client: r.Client.String(), Asked: r.Asked.String(), Attempts: r.Attempts, Stopped: r.Stopped.String(), Said: r.Said.String(),
		RequestEndedNano: uint64(r.RequestEnded), ResponseBeganNano: uint64(r.ResponseBegan), EndedNano: uint64(r.Ended),
	}
	out.Edge.LatencyCounts = nil
	decide := func(stage, part string, from observe.Origin) {
		if part == "" && from == (observe.Origin{}) {
			return
		}
		o := from.Object()
		out.Decisions = append(out.Decisions, &observev1.Decision{Stage: stage, Part: part, Object: o.Config, Hash: o.Hash, File: o.File, Line: uint32(o.Line)})
	}
	decide("listener", r.Listener, observe.Origin{})
	decide("host", r.Host, observe.Origin{})
	decide("route", r.Route, r.RouteOrigin)
	decide("cluster", r.Cluster, r.ClusterOrigin)
	for _, o := range r.Deciders[:min(len(r.Deciders), mostDeciders)] {
		decide("decider", "", o)
	}
	for _, a := range r.Tries() {
		out.Tries = append(out.Tries, &observev1.Attempt{Endpoint: a.Endpoint.String(), Local: a.Local.String(), Cause: name(a.Cause), Failure: a.Failure, Status: uint32(a.Status),
			Requests: a.Requests, AgeNano: uint64(a.Age), BeganNano: uint64(a.Began), EndedNano: uint64(a.Ended)})
	}
	return out
}

// mostDeciders is how many objects are told of that decided together.
const mostDeciders = 16

// name is the code of a cause, "" for none.
func name(c causes.Cause) string {
	if c == causes.NoCause {
		return ""
	}
	return c.Name()
}

func flags(f causes.Flags) string {
	if f == 0 {
		return ""
	}
	return f.String()
}
