//! Storage with small stable numbers: what lives in the hub is named by its slot, not by reference.

/// Values by slot. A slot is reused after removal, so whoever keeps a slot drops it when the value goes.
#[derive(Debug)]
pub(super) struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<u32>,
}

/// The place of a value.
pub(super) type Slot = u32;

impl<T> Slots<T> {
    pub fn new() -> Slots<T> {
        Slots {
            values: Vec::new(),
            free: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    pub fn insert(&mut self, value: T) -> Slot {
        match self.free.pop() {
            Some(slot) => {
                let place = &mut self.values[slot as usize];
                assert!(place.is_none(), "slot {slot} is free and taken");
                *place = Some(value);
                slot
            }
            None => {
                let slot = Slot::try_from(self.values.len())
                    .expect("a hub limits what it holds far below the range of a slot");
                self.values.push(Some(value));
                slot
            }
        }
    }

    pub fn remove(&mut self, slot: Slot) -> T {
        let value = self.values[slot as usize]
            .take()
            .expect("a slot is dropped together with its value");
        self.free.push(slot);
        value
    }

    pub fn get(&self, slot: Slot) -> &T {
        self.values[slot as usize]
            .as_ref()
            .expect("a slot is dropped together with its value")
    }

    pub fn get_mut(&mut self, slot: Slot) -> &mut T {
        self.values[slot as usize]
            .as_mut()
            .expect("a slot is dropped together with its value")
    }

    /// All values with their slots, in order of slot.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        (0..)
            .zip(&self.values)
            .filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }
}
